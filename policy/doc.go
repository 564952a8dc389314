// Package policy is the policy language of Hallpass: YAML files whose expressions are CEL, compiled to rules that decide.
//
// A policy is read from a git work tree or a plain folder (ReadDir), compiled with every mistake reported at its line and
// column (Compile), and then never changes: a Policy is safe for concurrent use and implements ca.Rules. What it says is
// described in docs/policy.md.
//
// The package knows files, expressions, rules, environments and roles. It must never know how identities are proved, how
// requests travel, or how decisions are recorded. cel-go is imported here and nowhere else, and none of its types leave.
//
// It fails closed: a deny rule that fails, refuses; an allow rule that fails does not match; what cannot be evaluated is a no.
package policy
