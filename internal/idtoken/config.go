package idtoken

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
)

// Config says whose tokens are taken.
type Config struct {
	// Issuers are required. One URL may come several times, with an audience each.
	Issuers []Issuer
	// Now is the clock that the age of keys is told by. Default: time.Now.
	Now func() time.Time
}

// The rules for emails.
const (
	EmailVerified = "verified" // email and email_verified: true are needed
	EmailOptional = "optional" // an email counts unless email_verified says otherwise
	EmailNone     = "none"     // emails are ignored
)

// GroupsNone is the GroupsClaim of an issuer that sends no groups.
const GroupsNone = "none"

// Issuer is one OIDC issuer in one role: with one audience, for people or for workloads.
type Issuer struct {
	// Name is for messages. Default: the URL.
	Name string
	// URL is the issuer's identifier, exactly as its tokens have it in iss. Required.
	URL string
	// Audience is the client id, for people, or what workloads ask for. Required, and unique among those of the same URL.
	Audience string
	// Kind is required.
	Kind ca.CallerKind
	// Algorithms are the signature algorithms to take. Default: RS256 and ES256.
	Algorithms []string
	// Email is the rule for emails. Default: EmailVerified for people, EmailNone for workloads.
	Email string
	// GroupsClaim names the claim with the groups. Tokens of people must have it, be it empty: who signs in chooses the scopes, and
	// leaving one out must not be a way out of a group. Default: "groups".
	GroupsClaim string
	// Require are claims that must have exactly this value, such as hd of Google.
	Require map[string]string
	// MaxAge is the age past which a token is refused even though it has not expired. Default: 24 hours.
	MaxAge time.Duration
	// Skew is how far the issuer's clock may be off. Default: 1 minute; at most 5.
	Skew time.Duration
	// MaxStale is how long keys serve that could not be fetched again. Default: 24 hours; at least 1 minute.
	MaxStale time.Duration
	// CAFile and AllowInsecure are those of issuerhttp.Config.
	CAFile        string
	AllowInsecure bool
}

// algorithms are those that can be allowed. None of them is symmetric, and none is "none".
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func (i *Issuer) setDefaults() {
	if i.Name == "" {
		i.Name = i.URL
	}
	if len(i.Algorithms) == 0 {
		i.Algorithms = []string{"RS256", "ES256"}
	}
	if i.Email == "" {
		i.Email = EmailVerified
		if i.Kind == ca.Workload {
			i.Email = EmailNone
		}
	}
	if i.GroupsClaim == "" {
		i.GroupsClaim = "groups"
	}
	if i.MaxAge == 0 {
		i.MaxAge = 24 * time.Hour
	}
	if i.Skew == 0 {
		i.Skew = time.Minute
	}
	if i.MaxStale == 0 {
		i.MaxStale = 24 * time.Hour
	}
	i.Algorithms, i.Require = slices.Clone(i.Algorithms), maps.Clone(i.Require)
}

func (i *Issuer) check() error {
	if err := i.http().CheckIssuer(i.URL); err != nil {
		return err
	}
	for _, alg := range i.Algorithms {
		if !slices.Contains(algorithms, alg) {
			return fmt.Errorf("algorithm %q cannot be allowed: choose from %s", alg, strings.Join(algorithms, ", "))
		}
	}
	for name, value := range i.Require {
		if name == "" || value == "" {
			return errors.New("require: a claim and its value must not be empty")
		}
	}
	switch {
	case i.Audience == "":
		return errors.New("audience is empty: for people it is the client id, for workloads the audience that they ask for")
	case i.Kind != ca.Person && i.Kind != ca.Workload:
		return errors.New("kind must be person or workload")
	case !slices.Contains([]string{EmailVerified, EmailOptional, EmailNone}, i.Email):
		return fmt.Errorf("email %q: it must be %s, %s or %s", i.Email, EmailVerified, EmailOptional, EmailNone)
	case i.MaxAge < 0:
		return fmt.Errorf("max_age %s: it must not be negative", i.MaxAge)
	case i.MaxStale < time.Minute:
		return fmt.Errorf("max_stale %s: it must be at least 1m", i.MaxStale)
	case i.Skew < 0 || i.Skew > 5*time.Minute:
		return fmt.Errorf("skew %s: it must be 0 to 5m", i.Skew)
	}
	return i.checkTenant()
}

func (i *Issuer) http() issuerhttp.Config {
	return issuerhttp.Config{CAFile: i.CAFile, AllowInsecure: i.AllowInsecure}
}

// entraHosts are the public endpoints of Microsoft Entra ID, of which each tenant has a path.
var entraHosts = []string{
	"login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn", "login.windows.net", "sts.windows.net",
}

// sharedTenants are the paths that stand for no tenant in particular. The last is that of personal accounts.
var sharedTenants = []string{"", "common", "organizations", "consumers", "9188040d-6c67-4c5b-b112-36a304b66dad"}

// checkTenant refuses issuers that vouch for anybody on the internet without a claim that says who is ours.
func (i *Issuer) checkTenant() error {
	u, err := url.Parse(i.URL)
	if err != nil {
		return err
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	tenant, _, _ := strings.Cut(strings.ToLower(strings.TrimLeft(u.Path, "/")), "/")
	switch {
	case slices.Contains(entraHosts, host) && (slices.Contains(sharedTenants, tenant) || strings.HasPrefix(tenant, "{")):
		return fmt.Errorf("%s signs in people of every organisation: name your tenant's own issuer, https://%s/<tenant id>/v2.0", i.URL, host)
	case host == "accounts.google.com" && i.Kind == ca.Person && i.Require["hd"] == "":
		return fmt.Errorf("%s signs in everybody with a Google account: add hd, your organisation's domain, to require", i.URL)
	}
	return nil
}

// check sets defaults and reports everything that is wrong.
func (c *Config) check() error {
	if c.Now == nil {
		c.Now = time.Now
	}
	if len(c.Issuers) == 0 {
		return errors.New("no issuer is configured: name at least one")
	}
	c.Issuers = slices.Clone(c.Issuers)
	var errs []error
	for n := range c.Issuers {
		i := &c.Issuers[n]
		i.setDefaults()
		if err := i.check(); err != nil {
			errs = append(errs, fmt.Errorf("issuer %s: %w", i.Name, err))
		}
		for _, other := range c.Issuers[:n] {
			if other.URL != i.URL {
				continue
			}
			if other.Audience == i.Audience {
				errs = append(errs, fmt.Errorf("issuer %s: audience %q is there twice: people and workloads are told apart by it", i.Name, i.Audience))
			}
			if other.http() != i.http() || other.MaxStale != i.MaxStale {
				errs = append(errs, fmt.Errorf("issuer %s: it has the URL of %s, so its CA file, allow_insecure and max_stale must be the same", i.Name, other.Name))
			}
		}
	}
	return errors.Join(errs...)
}
