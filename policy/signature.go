package policy

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// gitNamespace is what git signs commits for.
const gitNamespace = "git"

// Fault is why a revision may not come into force, in a word that records and metrics share.
type Fault struct {
	Kind pb.PolicyFault
	Err  error
}

func (f *Fault) Error() string { return f.Err.Error() }
func (f *Fault) Unwrap() error { return f.Err }

func faultf(kind pb.PolicyFault, format string, args ...any) *Fault {
	return &Fault{kind, fmt.Errorf(format, args...)}
}

// unfit is the fault of files that can be no policy, whatever is in them.
func unfit(format string, args ...any) error {
	return faultf(pb.PolicyFault_POLICY_FAULT_BROKEN, format, args...)
}

// Verify holds the commit of b against the signers at a time, which is that of the caller's clock: the times in a commit are what
// its author likes. If the commit is signed by one of them, b says by whom from then on; if not, the error is a Fault.
func (s *Signers) Verify(b *Bundle, now time.Time) error {
	if b.Commit == nil {
		return faultf(pb.PolicyFault_POLICY_FAULT_UNSIGNED, "%s is no git repository, so nobody signed it, and signatures are asked for: "+
			"commit it, or take allowed_signers out of hallpassd.yaml", b.Source)
	}
	if b.Dirty {
		return faultf(pb.PolicyFault_POLICY_FAULT_UNSIGNED, "files differ from the commit %.12s, so nobody signed them: commit them", b.Revision)
	}
	sig, err := readSignature(b)
	if err != nil {
		return err
	}
	line, err := s.signer(b, sig, now)
	if err != nil {
		return err
	}
	b.Commit.Signer, b.Commit.SigningKey = line.principals, ssh.FingerprintSHA256(line.key)
	return nil
}

// readSignature reads the signature that a commit carries. It does not say that it is right.
func readSignature(b *Bundle) (*sshsig.Signature, error) {
	commit, text := b.Revision, b.Commit.signature
	switch {
	case strings.TrimSpace(text) == "":
		return nil, faultf(pb.PolicyFault_POLICY_FAULT_UNSIGNED, "commit %.12s is not signed: sign it with an SSH key that is among the allowed "+
			"signers, `git commit --amend -S` with gpg.format=ssh, and push it", commit)
	case !strings.HasPrefix(text, "-----BEGIN SSH SIGNATURE-----"):
		kind, _, _ := strings.Cut(strings.TrimPrefix(text, "-----BEGIN "), "-----")
		return nil, faultf(pb.PolicyFault_POLICY_FAULT_UNKNOWN_SIGNER, "commit %.12s carries a %.30q, and only SSH signatures are looked at: "+
			"sign it with an SSH key that is among the allowed signers (gpg.format=ssh)", commit, kind)
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != sshsig.PEMType || len(bytes.TrimSpace(rest)) > 0 {
		return nil, faultf(pb.PolicyFault_POLICY_FAULT_BAD_SIGNATURE, "commit %.12s: its signature cannot be read: sign it again", commit)
	}
	sig, err := sshsig.ParseSignature(block.Bytes)
	if err != nil {
		return nil, faultf(pb.PolicyFault_POLICY_FAULT_BAD_SIGNATURE, "commit %.12s: its signature cannot be read: %w: sign it again", commit, err)
	}
	return sig, nil
}

// signer returns the line of the file that makes a signature count.
func (s *Signers) signer(b *Bundle, sig *sshsig.Signature, now time.Time) (signerLine, error) {
	commit, fingerprint := b.Revision, ssh.FingerprintSHA256(sig.PublicKey)
	if sig.Namespace != gitNamespace {
		return signerLine{}, faultf(pb.PolicyFault_POLICY_FAULT_UNKNOWN_SIGNER, "commit %.12s: the key %s signed it for %.40q, not for git: sign the commit "+
			"with git", commit, fingerprint, sig.Namespace)
	}
	var lines []signerLine
	for _, l := range s.lines {
		if bytes.Equal(l.key.Marshal(), sig.PublicKey.Marshal()) {
			lines = append(lines, l)
		}
	}
	if len(lines) == 0 {
		return signerLine{}, faultf(pb.PolicyFault_POLICY_FAULT_UNKNOWN_SIGNER, "commit %.12s is signed by the key %s, which is not in %s: let an allowed "+
			"signer sign it, or add the key there", commit, fingerprint, s.file)
	}
	if err := verifies(b, sig, lines[0].key); err != nil {
		return signerLine{}, faultf(pb.PolicyFault_POLICY_FAULT_BAD_SIGNATURE, "commit %.12s: the signature by the key %s does not verify (%w): the commit "+
			"was changed after it was signed. Find out by whom", commit, fingerprint, err)
	}
	return s.pick(commit, fingerprint, lines, now)
}

// verifies checks the signature itself. An RSA signature with SHA-1 is none.
func verifies(b *Bundle, sig *sshsig.Signature, key ssh.PublicKey) error {
	if sig.Signature.Format == ssh.KeyAlgoRSA {
		return fmt.Errorf("it uses SHA-1")
	}
	return sshsig.Verify(bytes.NewReader(b.Commit.payload), sig, key, sig.HashAlgorithm, gitNamespace)
}

// pick returns the first of a key's lines by which it may sign commits now. The reason of the last one is told if there is none.
func (s *Signers) pick(commit, fingerprint string, lines []signerLine, now time.Time) (signerLine, error) {
	var refusal *Fault
	for _, l := range lines {
		at := fmt.Sprintf("%s:%d", s.file, l.line)
		switch {
		case !l.allows(gitNamespace):
			if refusal == nil {
				refusal = faultf(pb.PolicyFault_POLICY_FAULT_UNKNOWN_SIGNER, "commit %.12s is signed by the key %s, which %s allows for %q only: add git "+
					"to its namespaces, or let another signer sign", commit, fingerprint, at, l.namespaces)
			}
		case !l.after.IsZero() && now.Before(l.after):
			refusal = faultf(pb.PolicyFault_POLICY_FAULT_EXPIRED_SIGNER, "commit %.12s is signed by the key %s, which is not valid before %s (%s): wait, or "+
				"let another signer sign", commit, fingerprint, l.after.Format(time.RFC3339), at)
		case !l.before.IsZero() && now.After(l.before):
			refusal = faultf(pb.PolicyFault_POLICY_FAULT_EXPIRED_SIGNER, "commit %.12s is signed by the key %s, which was valid until %s (%s): let another "+
				"signer sign, or renew the line", commit, fingerprint, l.before.Format(time.RFC3339), at)
		default:
			return l, nil
		}
	}
	return signerLine{}, refusal
}
