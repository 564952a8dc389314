package cli

import "github.com/spf13/cobra"

// topics are pages of the help that belong to no command.
func topics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesPage},
		{Use: "json", Short: "What -o json prints", Long: jsonPage},
		{Use: "environment", Short: "Which environment variables count", Long: environmentPage},
	}
}

const exitCodesPage = `The exit codes of every command:

  0    done, or nothing to do
  1    failed
  2    usage: the command line or the settings are wrong
  3    denied by policy
  4    sign in first: hallpass login
  5    something is still needed: a reason, a fresher login
  6    the daemon is not reachable
  130  interrupted

hallpass ssh ends with the exit code of ssh once ssh runs.`

const jsonPage = `With -o json the result is JSON on stdout, and an error is one line of JSON, the last, on stderr. Fields are added in later
versions, never renamed. Times are RFC 3339 in UTC; serials and indexes of records are strings, since they pass 2^53.

  {"error": {
    "kind":        "denied",     what went wrong, see below
    "message":     "...",        for people
    "hint":        "...",        the next command to type, if there is one
    "exit_code":   3,            that of the program
    "login":       "deploy",     what was asked for,
    "host":        "db1...",       if it was access
    "record":      "17",         where the log has the refusal: hallpass why record:17
    "rule":        "...",        what decided, as far as anything did
    "environment": "prod",
    "policy":      "3487af1...", its git revision, or its digest
    "explanation": {"reason": "...", "rules": [...], "missing": [...], "next": "...", "ask": "..."},
    "needs":       [{"kind": "reason"}, {"kind": "fresh_login", "login_within_seconds": 900}],
    "retry_after_seconds": 1.5,
    "request_id":  "..."         finds the call in the log file of the daemon
  }}

Fields that have no value are left out, but for kind, message and exit_code. The kinds, and their exit codes:

  usage 2          the command line or the settings are wrong
  unauthenticated 4  sign in first, or again
  denied 3         by policy
  needs 5          a yes, once "needs" is met
  unavailable 6    the daemon is not reachable, or cannot write its log
  exhausted 1      too many requests
  invalid, not found, conflict, internal, failed 1
  interrupted 130`

const environmentPage = `A flag wins over the environment, that over the settings file, that over the default.

  HALLPASS_SERVER      address of the CA, host:port#sha256:<pin>        --server       server:
  HALLPASS_CONFIG      settings file                                    --config
  HALLPASS_ISSUER      identity provider, if the CA knows several       --issuer       issuer:
  HALLPASS_KEY         public key file of your own key                  --key          key:
  HALLPASS_TOKEN_FILE  file with the ID token of a job or service       --token-file   token_file:
  HALLPASS_LOG_KEY     public key of the CA's log, from your admins                      log_key:
  HALLPASS_SSH_CONFIG  ssh configuration that setup changes             --ssh-config
  HALLPASS_KEYRING     "off" keeps tokens out of the system's keyring

  BROWSER              the program that opens the sign-in page
  NO_COLOR             no colours, whatever its value
  SSH_AUTH_SOCK        your ssh-agent
  XDG_CONFIG_HOME      holds hallpass/config.yaml; default ~/.config
  XDG_STATE_HOME       holds hallpass/: the sign-in, certificates, what was seen of the log; default ~/.local/state
  XDG_RUNTIME_DIR      holds the private key where there is no agent`
