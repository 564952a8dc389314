package policy_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/fixture/gitrepo"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

const (
	unsigned  = pb.PolicyFault_POLICY_FAULT_UNSIGNED
	unknown   = pb.PolicyFault_POLICY_FAULT_UNKNOWN_SIGNER
	expired   = pb.PolicyFault_POLICY_FAULT_EXPIRED_SIGNER
	falseSign = pb.PolicyFault_POLICY_FAULT_BAD_SIGNATURE
)

// A commit is good for us exactly if it is for git.
func TestSignaturesAgreeWithGit(t *testing.T) {
	now := time.Now()
	day := func(days int) string { return now.AddDate(0, 0, days).Format("20060102") }
	ed := gitrepo.NewSigner(t, "ed25519", "")
	other := gitrepo.NewSigner(t, "ed25519", "")
	for _, tt := range []struct {
		name   string
		signer gitrepo.Signer
		line   string // "KEY" is the signer's, "OTHER" another one
		fault  pb.PolicyFault
		want   string
	}{
		{"ed25519", ed, "alice@example.com KEY", 0, ""},
		{"ecdsa", gitrepo.NewSigner(t, "ecdsa", "384"), "alice@example.com KEY with a comment", 0, ""},
		{"rsa", gitrepo.NewSigner(t, "rsa", "2048"), "alice@example.com,bob@example.com KEY", 0, ""},
		{"for git", ed, `alice@example.com namespaces="git" KEY`, 0, ""},
		{"for a pattern that git fits", ed, `alice@example.com namespaces="file,g?t" KEY`, 0, ""},
		{"options in capitals", ed, `alice@example.com NAMESPACES="git" KEY`, 0, ""},
		{"within its time", ed, `alice@example.com valid-after="` + day(-1) + `",valid-before="` + day(2) + `" KEY`, 0, ""},
		{"in its second line", ed, "alice@example.com valid-before=\"20200101\" KEY\nalice@example.com KEY", 0, ""},
		{"between comments and empty lines, of DOS", ed, "# who may sign\r\n\r\n  alice@example.com KEY\r\n", 0, ""},
		{"quoted principals", ed, `"alice@example.com" KEY`, 0, ""},
		{"not in the file", ed, "bob@example.com OTHER", unknown, "which is not in"},
		{"for files only", ed, `alice@example.com namespaces="file" KEY`, unknown, `for "file" only`},
		{"for all but git", ed, `alice@example.com namespaces="*,!git" KEY`, unknown, "only"},
		{"expired", ed, `alice@example.com valid-before="` + day(-1) + `" KEY`, expired, "which was valid until"},
		{"expired in UTC", ed, `alice@example.com valid-before="20260101120000Z" KEY`, expired, "which was valid until 2026-01-01T12:00:00Z"},
		{"not yet valid", ed, `alice@example.com valid-after="` + day(2) + `0000" KEY`, expired, "which is not valid before"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := gitrepo.New(t)
			r.Write("policy.yaml", "one")
			commit := r.CommitSigned("Signed\n\nwith a second paragraph\n", tt.signer)
			text := strings.NewReplacer("KEY", tt.signer.Public, "OTHER", other.Public).Replace(tt.line)
			file := filepath.Join(t.TempDir(), "allowed_signers")
			writeFile(t, file, text)
			signers, err := policy.LoadSigners(file)
			if err != nil {
				t.Fatal(err)
			}
			b := fetched(t, follow(t, r.Bare))
			err = signers.Verify(b, now)
			said, gitErr := r.Try(r.Dir, "-c", "gpg.ssh.allowedSignersFile="+file, "verify-commit", commit)
			if (err == nil) != (gitErr == nil) {
				t.Errorf("we say %v, git says %v\n%s", err, gitErr, said)
			}
			checkFault(t, err, tt.fault, tt.want, commit)
			if err == nil && (!strings.HasPrefix(b.Commit.SigningKey, "SHA256:") || !strings.Contains(b.Commit.Signer, "alice@example.com")) {
				t.Errorf("signed by %q with %q", b.Commit.Signer, b.Commit.SigningKey)
			}
			if err == nil && !strings.Contains(said, b.Commit.SigningKey) {
				t.Errorf("the key is %s, git says\n%s", b.Commit.SigningKey, said)
			}
		})
	}
}

func checkFault(t *testing.T, err error, fault pb.PolicyFault, want, commit string) {
	t.Helper()
	if fault == 0 {
		if err != nil {
			t.Errorf("got %v, want none", err)
		}
		return
	}
	got, ok := errors.AsType[*policy.Fault](err)
	if !ok || got.Kind != fault || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), commit[:12]) {
		t.Errorf("got %v, want the fault %v with %q and the commit", err, fault, want)
	}
}

// What is no signature of this commit is told apart.
func TestSignaturesThatAreNone(t *testing.T) {
	key, other := gitrepo.NewSigner(t, "ed25519", ""), gitrepo.NewSigner(t, "ed25519", "")
	signers, err := policy.ParseSigners("allowed_signers", []byte("alice@example.com "+key.Public))
	if err != nil {
		t.Fatal(err)
	}
	changed := func(old, text string) func(r *gitrepo.Repo) {
		return func(r *gitrepo.Repo) {
			r.CommitSigned("Signed", key)
			raw := r.Git("cat-file", "commit", "HEAD") + "\n"
			if !strings.Contains(raw, old) {
				t.Fatalf("the commit has no %q", old)
			}
			r.Point(r.Object("commit", strings.Replace(raw, old, text, 1)))
		}
	}
	const begin, end = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
	for _, tt := range []struct {
		name  string
		make  func(r *gitrepo.Repo)
		fault pb.PolicyFault
		want  string
	}{
		{"unsigned", func(r *gitrepo.Repo) { r.Commit("x") }, unsigned, "is not signed"},
		{"with another message", changed("\n\nSigned", "\n\nSigned by me"), falseSign, "does not verify"},
		{"with another author", changed("author Alice", "author Mallory"), falseSign, "does not verify"},
		{"with a header more", changed("committer Alice", "encoding x\ncommitter Alice"), falseSign, "does not verify"},
		{"with a broken armour", changed(end, "-----END NOTHING-----"), falseSign, "cannot be read"},
		{"with something behind the armour", changed(end, end+"\n trailing"), falseSign, "cannot be read"},
		{"by PGP", changed(begin, "-----BEGIN PGP SIGNATURE-----"), unknown, `"PGP SIGNATURE"`},
		{"for files", func(r *gitrepo.Repo) { signedFor(r, "file", key) }, unknown, `for "file", not for git`},
		{"of another commit", func(r *gitrepo.Repo) {
			r.CommitSigned("First", key)
			signature := armour(r.Git("cat-file", "commit", "HEAD"))
			r.Write("policy.yaml", "two")
			r.CommitSigned("Second", key)
			raw := r.Git("cat-file", "commit", "HEAD") + "\n"
			r.Point(r.Object("commit", strings.Replace(raw, armour(raw), signature, 1)))
		}, falseSign, "does not verify"},
		{"by another key that says it is ours", func(r *gitrepo.Repo) { r.CommitSigned("x", other) }, unknown, "which is not in allowed_signers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := gitrepo.New(t)
			r.Write("policy.yaml", "one")
			tt.make(r)
			b := fetched(t, follow(t, r.Bare))
			checkFault(t, signers.Verify(b, time.Now()), tt.fault, tt.want, b.Revision)
			if b.Commit.Signer != "" {
				t.Errorf("the commit counts as signed by %s", b.Commit.Signer)
			}
		})
	}
	t.Run("two of them", func(t *testing.T) {
		r := gitrepo.New(t)
		r.Write("policy.yaml", "one")
		r.CommitSigned("x", key)
		raw := r.Git("cat-file", "commit", "HEAD") + "\n"
		r.Point(r.Object("commit", strings.Replace(raw, "gpgsig ", "gpgsig nothing\ngpgsig ", 1)))
		repo := follow(t, r.Bare)
		if err := repo.Fetch(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := repo.Read(repo.Head()); err == nil || !strings.Contains(err.Error(), "2 signatures") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nothing to sign", func(t *testing.T) {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "policy.yaml"), "one")
		b, err := policy.ReadDir(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		if fault, ok := errors.AsType[*policy.Fault](signers.Verify(b, time.Now())); !ok || fault.Kind != unsigned {
			t.Errorf("got %v", fault)
		}
	})
}

// armour cuts the signature out of a commit.
func armour(commit string) string {
	_, rest, _ := strings.Cut(commit, "gpgsig ")
	signature, _, _ := strings.Cut(rest, "-----END")
	return signature
}

// signedFor commits with a signature for another namespace, which takes a git of our own to make.
func signedFor(r *gitrepo.Repo, namespace string, key gitrepo.Signer) {
	program := filepath.Join(r.Dir, ".git", "sign")
	script := "#!/bin/sh\nset -e\nfor a; do file=$a; done\nexec ssh-keygen -q -Y sign -n " + namespace + " -f '" + key.File + "' \"$file\"\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		panic(err)
	}
	r.Git("config", "gpg.ssh.program", program)
	r.CommitSigned("x", key)
}

func TestSignersAreReadStrictly(t *testing.T) {
	key := gitrepo.NewSigner(t, "ed25519", "").Public
	short := gitrepo.NewSigner(t, "rsa", "1024").Public
	for _, tt := range []struct{ name, line, want string }{
		{"nothing", "# nobody\n", "no key is allowed to sign"},
		{"no key", "alice@example.com", "has no key"},
		{"no principals", key, ""},
		{"a certificate authority", "alice@example.com cert-authority " + key, "cert-authority is not supported"},
		{"an option that is none", "alice@example.com no-touch-required " + key, `there is no option "no-touch-required"`},
		{"an option without quotes", "alice@example.com namespaces=git " + key, "double quotes"},
		{"an option without a value", "alice@example.com namespaces=\"\" " + key, "double quotes"},
		{"an option twice", `alice@example.com namespaces="git",namespaces="file" ` + key, "comes twice"},
		{"a quote that is not closed", `alice@example.com namespaces="git ` + key, "not closed"},
		{"a time that is none", `alice@example.com valid-before="2027-01-01" ` + key, "is no time"},
		{"a month that is none", `alice@example.com valid-before="20271301" ` + key, "is no time"},
		{"a time that never comes", `alice@example.com valid-after="20270101",valid-before="20260101" ` + key, "never good"},
		{"a DSA key", "alice@example.com ssh-dss AAAA", `of type "ssh-dss" cannot sign`},
		{"a certificate", "alice@example.com ssh-ed25519-cert-v01@openssh.com AAAA", "cannot sign"},
		{"a short RSA key", "alice@example.com " + short, "1024 bits"},
		{"a key that is cut", "alice@example.com " + key[:40], "the key"},
		{"a key of another type", "alice@example.com " + strings.Replace(key, "ssh-ed25519", "ssh-rsa", 1), "not ssh-rsa"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := policy.ParseSigners("allowed_signers", []byte("# a comment\n"+tt.line+"\n"))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if tt.name != "nothing" && err != nil && !strings.HasPrefix(err.Error(), "allowed_signers:2: ") {
				t.Errorf("%v does not name file and line", err)
			}
		})
	}
}
