package verify

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
)

// What a certificate may be whatever the policy says (docs/issuance.md). They are written here once more: this package does not
// trust the code that it checks.
const (
	longestLifetime = 24 * time.Hour
	longestBackdate = 5 * time.Minute
	// longestDelay is how far apart a decision and its record may be: a request has seconds, and clocks are set.
	longestDelay = 10 * time.Minute
	// clockSkew is how far apart the clocks of a caller and of the CA may be.
	clockSkew = 5 * time.Minute
)

var (
	criticalOptions = []string{"force-command", "source-address", "verify-required"}
	extensions      = []string{"permit-pty", "permit-port-forwarding", "permit-agent-forwarding", "permit-X11-forwarding", "permit-user-rc"}
)

// checkShape holds a certificate against what was asked, and against what any certificate may be.
func checkShape(d *pb.Decided, cert *ssh.Certificate) error {
	asked, decided := d.GetAsked(), d.GetDecidedAt().AsTime()
	key := sha256.Sum256(cert.Key.Marshal())
	switch {
	case cert.CertType != ssh.UserCert:
		return errors.New("its certificate is not for a user")
	case !bytes.Equal(key[:], asked.GetKey()):
		return errors.New("its certificate is for another key than the one that was asked for")
	case asked.GetClientTime().AsTime().Sub(decided).Abs() > clockSkew:
		return fmt.Errorf("it grants a request of %s at %s", asked.GetClientTime().AsTime(), decided)
	}
	if err := checkToken(d.GetToken(), decided); err != nil {
		return err
	}
	if err := checkPrincipal(d, cert); err != nil {
		return err
	}
	if err := checkWindow(cert, decided, asked.GetTtl().AsDuration()); err != nil {
		return err
	}
	for name := range cert.CriticalOptions {
		if !slices.Contains(criticalOptions, name) {
			return fmt.Errorf("its certificate has the critical option %q, which no policy can grant", name)
		}
	}
	for name, value := range cert.Extensions {
		if !slices.Contains(extensions, name) || value != "" {
			return fmt.Errorf("its certificate has the extension %q, which no policy can grant", name)
		}
	}
	return nil
}

// checkToken wants one that was valid.
func checkToken(t *pb.TokenFacts, decided time.Time) error {
	switch expires := t.GetExpiresAt().AsTime(); {
	case !expires.Add(clockSkew).After(decided):
		return fmt.Errorf("it grants at %s to an ID token that expired at %s", decided, expires)
	case t.GetIssuedAt().AsTime().After(decided.Add(clockSkew)):
		return fmt.Errorf("it grants at %s to an ID token that was issued at %s", decided, t.GetIssuedAt().AsTime())
	case t.GetAuthTime().AsTime().After(decided.Add(clockSkew)):
		return fmt.Errorf("it grants at %s by a sign-in at %s", decided, t.GetAuthTime().AsTime())
	}
	return nil
}

// checkPrincipal wants exactly one, which belongs to the login that was asked for.
func checkPrincipal(d *pb.Decided, cert *ssh.Certificate) error {
	login, host, environment := d.GetAsked().GetLogin(), d.GetAsked().GetHost(), d.GetDecision().GetEnvironment()
	if login == "" || strings.Contains(login, "@") {
		return fmt.Errorf("it grants the login %q", login)
	}
	allowed := []string{login, login + "@" + host}
	if environment != "" {
		allowed = append(allowed, login+"@"+environment)
	}
	if len(cert.ValidPrincipals) != 1 || !slices.Contains(allowed, cert.ValidPrincipals[0]) {
		return fmt.Errorf("its certificate has the principals %q, but %q on %q was asked for", cert.ValidPrincipals, login, host)
	}
	return nil
}

func checkWindow(cert *ssh.Certificate, decided time.Time, ttl time.Duration) error {
	longest := longestLifetime
	if ttl > 0 {
		longest = min(longest, ttl)
	}
	now := uint64(decided.Unix())
	switch {
	case cert.ValidBefore <= now:
		return errors.New("its certificate ends before it was decided")
	case cert.ValidBefore-now > uint64(longest/time.Second):
		return fmt.Errorf("its certificate is valid for %ds, longer than the %s that was asked for or may be", cert.ValidBefore-now, longest)
	case cert.ValidAfter > now || now-cert.ValidAfter > uint64(longestBackdate/time.Second):
		return errors.New("its certificate begins at another time than its decision, backdating aside")
	}
	return nil
}
