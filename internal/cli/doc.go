// Package cli is the tool `hallpass`: one file a subcommand.
//
// It knows what users type, where their settings and state live, and how a result, a refusal and a hint look. It decides
// nothing: the daemon does, and package client checks what comes back.
//
// Results go to stdout, everything else to stderr. The exit codes are part of the interface:
//
//	0    done, or nothing to do
//	1    failed
//	2    usage
//	3    denied by policy
//	4    sign in first
//	5    something is still needed: a reason, a fresher login
//	6    the daemon is not reachable
//	130  interrupted
package cli
