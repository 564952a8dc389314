package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/fixture/gitrepo"
	"github.com/hallpass-ssh/hallpass/policy"
)

// FuzzCommit: what a signature covers is the commit without its signature, byte for byte.
func FuzzCommit(f *testing.F) {
	r, key := gitrepo.New(f), gitrepo.NewSigner(f, "ed25519", "")
	r.Write("policy.yaml", "one")
	r.Commit("Unsigned")
	f.Add([]byte(r.Git("cat-file", "commit", "HEAD") + "\n"))
	r.CommitSigned("Signed\n\ngpgsig is no header here\n", key)
	f.Add([]byte(r.Git("cat-file", "commit", "HEAD") + "\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		payload, signature, err := policy.SplitCommit(raw)
		if err != nil {
			return
		}
		header, message, ended := strings.Cut(string(raw), "\n\n")
		if !ended {
			return // it has no message, and the payload gets the empty line that is missing
		}
		var rest strings.Builder
		in := false
		for line := range strings.SplitAfterSeq(header+"\n", "\n") {
			switch {
			case strings.HasPrefix(line, "gpgsig ") || strings.HasPrefix(line, "gpgsig-sha256 ") || line == "gpgsig\n" || line == "gpgsig-sha256\n":
				in = true
			case in && strings.HasPrefix(line, " "):
			default:
				in = false
				rest.WriteString(line)
			}
		}
		if want := rest.String() + "\n" + message; string(payload) != want {
			t.Errorf("the payload is %q, want %q", payload, want)
		}
		if len(payload)+len(signature) > len(raw)+2 {
			t.Errorf("%d bytes came out of %d", len(payload)+len(signature), len(raw))
		}
	})
}

// FuzzSigners: a file is refused with its line, or read; and what is read never lets a commit in that is not signed.
func FuzzSigners(f *testing.F) {
	r, key := gitrepo.New(f), gitrepo.NewSigner(f, "ed25519", "")
	for _, line := range []string{"alice@example.com KEY", `a,b namespaces="git",valid-before="20270101Z" KEY x`, "# x\n\na cert-authority KEY", `"a b" KEY`} {
		f.Add(strings.ReplaceAll(line, "KEY", key.Public))
	}
	dir := r.Dir
	r.Write("policy.yaml", "one")
	r.Commit("Unsigned")
	b, err := policy.ReadDir(dir, false)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		signers, err := policy.ParseSigners("allowed_signers", []byte(text))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "allowed_signers:") {
				t.Errorf("%v does not name the file", err)
			}
			return
		}
		if err := signers.Verify(b, time.Now()); err == nil {
			t.Error("a commit without a signature is let in")
		}
	})
}
