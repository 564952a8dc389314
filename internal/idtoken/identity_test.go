package idtoken_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/devidp"
	"github.com/hallpass-ssh/hallpass/internal/idtoken"
)

// TestKnownCallersAreDenied shows that a caller whose token verifies is known, whatever its email and groups.
func TestKnownCallersAreDenied(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	many := make([]string, 1001)
	for n := range many {
		many[n] = "g"
	}
	type claims = map[string]any
	for _, tt := range []struct {
		name   string
		rule   string
		claims claims
		want   string
	}{
		{"an email that is not verified is denied", "", claims{"email_verified": false}, "not verified"},
		{`an email_verified of "true" is denied`, "", claims{"email_verified": "true"}, "not a boolean"},
		{`an email_verified of "false" is denied`, "", claims{"email_verified": "false"}, "not a boolean"},
		{"an email_verified of 1 is denied", "", claims{"email_verified": 1}, "not a boolean"},
		{"an email_verified of null is denied", "", claims{"email_verified": nil}, "not a boolean"},
		{"a missing email_verified is denied", "", claims{"email_verified": absent}, "no email_verified"},
		{"a missing email is denied", "", claims{"email": absent}, "sent no email"},
		{"an optional email that is not verified is denied", idtoken.EmailOptional, claims{"email_verified": false}, "not verified"},
		{`an optional email with "true" is denied`, idtoken.EmailOptional, claims{"email_verified": "true"}, "not a boolean"},
		{"an email that is a list is denied", "", claims{"email": []string{"alice@example.com"}}, "not one that can be used"},
		{"an email with two @ is denied", "", claims{"email": "alice@evil.example@example.com"}, "not one that can be used"},
		{"an email without @ is denied", "", claims{"email": "alice"}, "not one that can be used"},
		{"an empty email is denied", "", claims{"email": ""}, "not one that can be used"},
		{"an email with a line break is denied", "", claims{"email": "alice@example.com\n"}, "not one that can be used"},
		{"an email with a comma is denied", "", claims{"email": "root,alice@example.com"}, "not one that can be used"},
		{"an email with a display name is denied", "", claims{"email": "Alice <alice@example.com>"}, "not one that can be used"},
		{"an email with a quoted local part is denied", "", claims{"email": `"a b"@example.com`}, "not one that can be used"},
		{"an email with a Cyrillic letter is denied", "", claims{"email": "аlice@example.com"}, "not one that can be used"},
		{"an email of a domain in Unicode is denied", "", claims{"email": "alice@exämple.com"}, "not one that can be used"},
		{"an email with a dot after it is denied", "", claims{"email": "alice@example.com."}, "not one that can be used"},
		{"an email of 255 bytes is denied", "", claims{"email": "alice@" + strings.Repeat("a.", 123) + "com"}, "not one that can be used"},
		{"a group alone, not a list, is denied", "", claims{"groups": "admin"}, "not a list"},
		{"missing groups are denied, since a scope that was not asked for is no way out of a group", "", claims{"groups": absent}, "sent no groups"},
		{"groups that are null are denied", "", claims{"groups": nil}, "not a list"},
		{"groups with a number in them are denied", "", claims{"groups": []any{"developers", 7}}, "not a printable string"},
		{"groups with a list in them are denied", "", claims{"groups": []any{[]string{"admin"}}}, "not a printable string"},
		{"groups with an empty name are denied", "", claims{"groups": []string{""}}, "not a printable string"},
		{"groups with a line break are denied", "", claims{"groups": []string{"a\nb"}}, "not a printable string"},
		{"more than a thousand groups are denied", "", claims{"groups": many}, "more than 1000"},
		{"a link to the groups in their place is denied", "", claims{
			"groups": absent, "_claim_names": claims{"groups": "src1"},
			"_claim_sources": claims{"src1": claims{"endpoint": "https://graph.example/u/getMemberObjects"}},
		}, "groups overage"},
		{"a word that there are groups, in their place, is denied", "", claims{"groups": absent, "hasgroups": true}, "groups overage"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := issuers(server)
			all[0].Email = tt.rule
			v := newVerifier(t, idtoken.Config{Issuers: all})
			caller, err := v.Authenticate(t.Context(), sign(t, server.People(), person(t, server, tt.claims), devidp.TokenOptions{}), time.Now())
			wantRefused(t, err, ca.Denied, tt.want)
			if caller.Identity.Issuer != server.URL() || caller.Identity.Subject != "u-7f3a9c21" || caller.Identity.Kind != ca.Person {
				t.Errorf("the caller is %+v, want it known", caller.Identity)
			}
			if strings.Contains(tt.want, "mail") && caller.Identity.Email != "" {
				t.Errorf("the caller has the email %q", caller.Identity.Email)
			}
			if caller.Token.Digest == [32]byte{} {
				t.Error("the caller has no token digest")
			}
		})
	}
}

func TestEmailRules(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	type claims = map[string]any
	for _, tt := range []struct {
		name   string
		rule   string
		claims claims
		want   string
	}{
		{"a verified email is passed on, its case kept", idtoken.EmailVerified, claims{"email": "Alice@Example.COM"}, "Alice@Example.COM"},
		{"an optional email that is verified is passed on", idtoken.EmailOptional, claims{}, "alice@example.com"},
		{"an optional email that nothing is said of is passed on", idtoken.EmailOptional, claims{"email_verified": absent}, "alice@example.com"},
		{"an optional email may be missing", idtoken.EmailOptional, claims{"email": absent}, ""},
		{"an issuer without emails has none, whatever it sends", idtoken.EmailNone, claims{"email_verified": "no"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := issuers(server)
			all[0].Email = tt.rule
			v := newVerifier(t, idtoken.Config{Issuers: all})
			caller, err := v.Authenticate(t.Context(), sign(t, server.People(), person(t, server, tt.claims), devidp.TokenOptions{}), time.Now())
			if err != nil || caller.Identity.Email != tt.want {
				t.Errorf("got %q, %v, want %q", caller.Identity.Email, err, tt.want)
			}
		})
	}
}

func TestGroups(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	all := issuers(server)
	all[0].GroupsClaim = "https://example.com/teams"
	v := newVerifier(t, idtoken.Config{Issuers: all})
	for name, tt := range map[string]struct {
		value any
		want  []string
	}{
		"an empty list is an empty list": {[]string{}, []string{}},
		"order and commas are kept":      {[]string{"b", "a,c", "b"}, []string{"b", "a,c", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			claims := person(t, server, map[string]any{"https://example.com/teams": tt.value})
			caller, err := v.Authenticate(t.Context(), sign(t, server.People(), claims, devidp.TokenOptions{}), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, caller.Identity.Groups); diff != "" {
				t.Errorf("groups (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRequiredClaims shows that whoever lacks them is a stranger, although the issuer signed.
func TestRequiredClaims(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	all := issuers(server)
	all[0].Require = map[string]string{"hd": "example.com", "tid": "t-1"}
	v := newVerifier(t, idtoken.Config{Issuers: all})
	type claims = map[string]any
	for _, tt := range []struct {
		name   string
		claims claims
		want   string // empty: taken
	}{
		{"the right hd and tid are taken", claims{"hd": "example.com", "tid": "t-1"}, ""},
		{"a missing hd is refused", claims{"tid": "t-1"}, "no hd"},
		{"another tid is refused", claims{"hd": "example.com", "tid": "t-2"}, "tid is not"},
		{"an hd that only ends so is refused", claims{"hd": "evil-example.com", "tid": "t-1"}, "hd is not"},
		{"an hd in other letters is refused", claims{"hd": "Example.com", "tid": "t-1"}, "hd is not"},
		{"an hd that is a list is refused", claims{"hd": []string{"example.com"}, "tid": "t-1"}, "hd is not"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			caller, err := v.Authenticate(t.Context(), sign(t, server.People(), person(t, server, tt.claims), devidp.TokenOptions{}), time.Now())
			if tt.want == "" {
				if err != nil {
					t.Fatalf("got %v, want no error", err)
				}
				return
			}
			wantRefused(t, err, ca.Unauthenticated, tt.want)
			if caller.Identity.Subject != "" {
				t.Errorf("the caller is known as %q", caller.Identity.Subject)
			}
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := idtoken.Issuer{URL: "https://id.example.com", Audience: "hallpass", Kind: ca.Person}
	with := func(change func(*idtoken.Issuer)) []idtoken.Issuer {
		i := good
		change(&i)
		return []idtoken.Issuer{i}
	}
	url := func(url string) []idtoken.Issuer { return with(func(i *idtoken.Issuer) { i.URL = url }) }
	for _, tt := range []struct {
		name    string
		issuers []idtoken.Issuer
		want    string // empty: accepted
	}{
		{"one issuer is accepted", []idtoken.Issuer{good}, ""},
		{"no issuer is refused", nil, "no issuer is configured"},
		{"an http issuer is refused", url("http://id.example.com"), "must begin with https://"},
		{"an http issuer on loopback is refused unless allowed", url("http://127.0.0.1:1"), "allow_insecure"},
		{"an http issuer elsewhere is refused even if allowed", with(func(i *idtoken.Issuer) {
			i.URL, i.AllowInsecure = "http://127.0.0.1.example.com", true
		}), "must begin with https://"},
		{"an issuer without host is refused", url("https:///x"), "not an absolute URL"},
		{"an empty issuer is refused", url(""), "not an absolute URL"},
		{"an issuer with a query is refused", url("https://id.example.com?x=1"), "must not have"},
		{"an issuer with a password is refused, and not shown", url("https://u:secret@id.example.com"), "u:xxxxx@"},
		{"an empty audience is refused", with(func(i *idtoken.Issuer) { i.Audience = "" }), "audience is empty"},
		{"a missing kind is refused", with(func(i *idtoken.Issuer) { i.Kind = 0 }), "kind must be"},
		{"alg none is refused", with(func(i *idtoken.Issuer) { i.Algorithms = []string{"none"} }), `"none" cannot be allowed`},
		{"alg HS256 is refused", with(func(i *idtoken.Issuer) { i.Algorithms = []string{"RS256", "HS256"} }), `"HS256" cannot be allowed`},
		{"alg EdDSA is accepted", with(func(i *idtoken.Issuer) { i.Algorithms = []string{"EdDSA", "PS256", "ES384"} }), ""},
		{"an unknown email rule is refused", with(func(i *idtoken.Issuer) { i.Email = "maybe" }), `email "maybe"`},
		{"a skew of an hour is refused", with(func(i *idtoken.Issuer) { i.Skew = time.Hour }), "skew 1h0m0s"},
		{"a negative maximum age is refused", with(func(i *idtoken.Issuer) { i.MaxAge = -time.Hour }), "max_age -1h0m0s"},
		{"a maximum staleness of a second is refused", with(func(i *idtoken.Issuer) { i.MaxStale = time.Second }), "at least 1m"},
		{"a required claim without value is refused", with(func(i *idtoken.Issuer) { i.Require = map[string]string{"hd": ""} }), "must not be empty"},
		{"a CA file that is missing is refused", with(func(i *idtoken.Issuer) { i.CAFile = "/nonexistent/ca.pem" }), "load CA file"},
		{"an audience that comes twice is refused", []idtoken.Issuer{good, good}, "is there twice"},
		{"Entra's common tenant is refused", url("https://login.microsoftonline.com/common/v2.0"), "every organisation"},
		{"Entra's organizations tenant is refused", url("https://login.microsoftonline.com/Organizations/v2.0"), "every organisation"},
		{"Entra's consumers tenant is refused", url("https://LOGIN.microsoftonline.com:443/consumers/v2.0"), "every organisation"},
		{"Entra's template is refused", url("https://login.microsoftonline.com/{tenantid}/v2.0"), "every organisation"},
		{"Entra without a tenant is refused", url("https://sts.windows.net/"), "every organisation"},
		{"one tenant of Entra is accepted", url("https://login.microsoftonline.com/6babcaad-604b-40ac-a9d7-9fd97c0b779f/v2.0"), ""},
		{"Google without hd is refused", url("https://accounts.google.com"), "add hd"},
		{"Google with hd is accepted", with(func(i *idtoken.Issuer) {
			i.URL, i.Require = "https://accounts.google.com", map[string]string{"hd": "example.com"}
		}), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := idtoken.New(idtoken.Config{Issuers: tt.issuers})
			if tt.want == "" && err != nil {
				t.Errorf("got %v, want no error", err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestConfigNamesAllErrors shows that one look is enough to mend a configuration.
func TestConfigNamesAllErrors(t *testing.T) {
	_, err := idtoken.New(idtoken.Config{Issuers: []idtoken.Issuer{
		{Name: "one", URL: "http://id.example.com", Audience: "a", Kind: ca.Person},
		{Name: "two", URL: "https://id.example.com", Kind: ca.Person},
	}})
	for _, want := range []string{"issuer one: ", "issuer two: "} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestNoGroups(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	all := issuers(server)
	all[0].GroupsClaim = idtoken.GroupsNone
	v := newVerifier(t, idtoken.Config{Issuers: all})
	for name, raw := range map[string]string{
		"an issuer without groups sends none, whatever it sends": sign(t, server.People(), person(t, server, map[string]any{"groups": "x"}), devidp.TokenOptions{}),
		"a job needs no groups":                                  sign(t, server.Workloads(), workload(t, server, map[string]any{"groups": absent}), devidp.TokenOptions{}),
	} {
		t.Run(name, func(t *testing.T) {
			caller, err := v.Authenticate(t.Context(), raw, time.Now())
			if err != nil || caller.Identity.Groups != nil {
				t.Errorf("got %q, %v, want no groups", caller.Identity.Groups, err)
			}
		})
	}
}
