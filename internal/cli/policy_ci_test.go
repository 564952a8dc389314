package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// TestPolicyCI runs the commands of the CI examples in a repository whose last commit gives more time. Only what would go out
// over the network is caught: curl fetches the copy of the log from a file, and gh and curl keep what they would post.
func TestPolicyCI(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy-ci.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?ms)^```yaml ([a-z]+)\n(.*?)^```\n").FindAllStringSubmatch(string(text), -1)
	if len(examples) != 2 {
		t.Fatalf("the page has %d examples", len(examples))
	}
	for _, e := range examples {
		t.Run(e[1], func(t *testing.T) {
			script := map[string]func(*testing.T, string) string{"github": githubScript, "gitlab": gitlabScript}[e[1]](t, e[2])
			for _, tt := range []struct{ name, key, fails string }{
				{"the log", "key", ""},
				{"another log", "another", "log"},
			} {
				t.Run(tt.name, func(t *testing.T) { runCI(t, script, tt.key, tt.fails) })
			}
		})
	}
}

// runCI runs a script as a runner does: bash, which stops at the first command that fails.
func runCI(t *testing.T, script, key, fails string) {
	t.Helper()
	dir, logs, bin := diffDir(t), replayDir(t), t.TempDir()
	for name, text := range map[string]string{
		"curl": "#!/bin/sh\nset -eu\nconfig=$(cat); case $config in *secret*) ;; *) echo no token >&2; exit 1;; esac\n" +
			"for arg; do case $arg in *secret*) echo a token is an argument >&2; exit 1;; esac; done\n" +
			"while [ $# -gt 0 ]; do case $1 in --output) cp \"$FIXTURE\" \"$2\"; shift;; --data-urlencode) cp \"${2#body@}\" posted.md; shift;; esac; shift; done\n",
		"gh": "#!/bin/sh\nset -eu\nwhile [ $# -gt 0 ]; do case $1 in --body-file) cp \"$2\" posted.md; shift;; esac; shift; done\n",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	publicKey, err := os.ReadFile(filepath.Join(logs, "key"))
	if err != nil {
		t.Fatal(err)
	}
	if key == "another" {
		publicKey, err = os.ReadFile(filepath.Join(replayDir(t), "key"))
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("bash", "-e", "-o", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "FIXTURE="+filepath.Join(logs, "copy.db"), "BASE=v1", "PULL_REQUEST=7",
		"LOG_COPY_URL=https://copies.example.com/log", "LOG_COPY_TOKEN=secret", "GH_TOKEN=secret", "GITLAB_TOKEN=secret",
		"LOG_KEY="+strings.TrimSpace(string(publicKey)), "CI_MERGE_REQUEST_DIFF_BASE_SHA=v1", "CI_API_V4_URL=https://gitlab.example.com/api/v4",
		"CI_PROJECT_ID=1", "CI_MERGE_REQUEST_IID=2")
	out, err := cmd.CombinedOutput()
	if fails != "" {
		if err == nil || !strings.Contains(string(out), fails) {
			t.Errorf("it does not fail: %v\n%s", err, out)
		}
		return
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	posted, err := os.ReadFile(filepath.Join(dir, "posted.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"### Policy diff", "2h | 6h | wider", "### Policy replay", "decision"} {
		if !strings.Contains(string(posted), want) {
			t.Errorf("what is posted lacks %q:\n%s", want, posted)
		}
	}
}

func githubScript(t *testing.T, text string) string {
	t.Helper()
	var workflow struct {
		On   string
		Jobs map[string]struct {
			RunsOn string `yaml:"runs-on"`
			Steps  []struct{ Uses, Run string }
		}
	}
	if err := yaml.Unmarshal([]byte(text), &workflow); err != nil {
		t.Fatal(err)
	}
	job := workflow.Jobs["policy"]
	if workflow.On != "pull_request" || job.RunsOn == "" {
		t.Fatalf("%+v", workflow)
	}
	var script []string
	for _, step := range job.Steps {
		if (step.Uses == "") == (step.Run == "") {
			t.Fatalf("a step uses something or runs something: %+v", step)
		}
		if step.Run != "" {
			script = append(script, "bash -e -o pipefail -c '"+strings.ReplaceAll(step.Run, "'", `'\''`)+"'")
		}
	}
	return strings.Join(script, "\n")
}

func gitlabScript(t *testing.T, text string) string {
	t.Helper()
	var pipeline map[string]struct{ Script []string }
	if err := yaml.Unmarshal([]byte(text), &pipeline); err != nil {
		t.Fatal(err)
	}
	if len(pipeline["policy"].Script) == 0 {
		t.Fatal("no script")
	}
	return strings.Join(pipeline["policy"].Script, "\n")
}
