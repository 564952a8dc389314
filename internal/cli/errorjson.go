package cli

import (
	"errors"
	"strconv"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit/verify"
	"github.com/hallpass-ssh/hallpass/internal/client"
)

// errorJSON is the form of an error with -o json. Help topic "json" documents it.
type errorJSON struct {
	Kind     string `json:"kind"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
	ExitCode int    `json:"exit_code"`
	// Login and Host are what was asked for.
	Login string `json:"login,omitempty"`
	Host  string `json:"host,omitempty"`
	// Record, Rule, Environment and Policy are what the refusal cites; Record also the first bad record of a log.
	Record      string     `json:"record,omitempty"`
	Rule        string     `json:"rule,omitempty"`
	Environment string     `json:"environment,omitempty"`
	Policy      string     `json:"policy,omitempty"`
	Needs       []needJSON `json:"needs,omitempty"`
	// Explanation is why the policy refused.
	Explanation *explanationJSON `json:"explanation,omitempty"`
	// RetryAfter is when to try again, in seconds.
	RetryAfter float64 `json:"retry_after_seconds,omitempty"`
	RequestID  string  `json:"request_id,omitempty"`
}

// exitKinds name the errors that the daemon did not make.
var exitKinds = map[int]string{exitUsage: "usage", exitSignIn: ca.Unauthenticated.String(), exitInterrupted: "interrupted"}

// reportJSON writes an error as one line, so that it is found after the notes for people that may stand before it.
func (a *app) reportJSON(f *failure) {
	out := errorJSON{Kind: exitKinds[f.exit], Message: f.Error(), Hint: f.hint, ExitCode: f.exit}
	if out.Kind == "" {
		out.Kind = "failed"
	}
	if f.asked != nil {
		out.Login, out.Host = f.asked.login, f.asked.host
	}
	if reason, ok := errors.AsType[*ca.Error](f.err); ok {
		out.Kind, out.RetryAfter = reason.Kind.String(), reason.RetryAfter.Seconds()
		out.Needs = needsJSON(reason.Needs)
	}
	if r, ok := errors.AsType[*client.Refusal](f.err); ok {
		out.Explanation = newExplanationJSON(r.Explanation)
		out.Record, out.Rule, out.Environment, out.Policy, out.RequestID = r.Index, r.Rule, r.Environment, r.Policy, r.RequestID
	}
	if bad, ok := errors.AsType[*verify.RecordError](f.err); ok {
		out.Record = strconv.FormatUint(bad.Index, 10)
	}
	_ = writeJSON(a.err, map[string]errorJSON{"error": out}, "", "") // there is nowhere left to say that it failed
}

func needsJSON(needs []ca.Need) []needJSON {
	out := []needJSON{}
	for _, n := range needs {
		out = append(out, needJSON{needNames[n.Kind], int64(n.LoginWithin / time.Second)})
	}
	return out
}
