package devidp

import (
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const scopeGroups = "groups"

// client is a Client in the words of op.Client, for the length of one HTTP request.
type client struct {
	Client
	idTokenLifetime time.Duration
	skew            time.Duration // see moment
}

func (c *client) GetID() string                    { return c.ID }
func (c *client) RedirectURIs() []string           { return c.Client.RedirectURIs }
func (c *client) PostLogoutRedirectURIs() []string { return nil }
func (c *client) ApplicationType() op.ApplicationType {
	return op.ApplicationTypeNative
}
func (c *client) AuthMethod() oidc.AuthMethod { return oidc.AuthMethodNone }
func (c *client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}

func (c *client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeDeviceCode}
}

func (c *client) LoginURL(id string) string {
	return loginPath + "?" + url.Values{"id": {id}}.Encode()
}

func (c *client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeBearer }

// The library dates an ID token now-skew to now+skew+lifetime: so the skew moves iat to the provider's clock, and the
// lifetime takes back what it added to exp.
func (c *client) ClockSkew() time.Duration       { return c.skew }
func (c *client) IDTokenLifetime() time.Duration { return c.idTokenLifetime - 2*c.skew }

func (c *client) DevMode() bool                                                { return false }
func (c *client) RestrictAdditionalIdTokenScopes() func([]string) []string     { return slices.Clone }
func (c *client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return slices.Clone }
func (c *client) IsScopeAllowed(scope string) bool                             { return scope == scopeGroups }

// IDTokenUserinfoClaimsAssertion puts the email into the ID token, where Hallpass reads it.
func (c *client) IDTokenUserinfoClaimsAssertion() bool { return true }

// redirectsTo reports whether uri is one of the client's redirect URIs but for its port (RFC 8252 7.3). The library has
// then compared path and query; it would take localhost and https for 127.0.0.1, which RFC 8252 8.3 advises against.
func (c Client) redirectsTo(uri string) bool {
	u, err := url.Parse(uri)
	if err != nil || u.User != nil || u.Fragment != "" {
		return false
	}
	return slices.ContainsFunc(c.RedirectURIs, func(registered string) bool {
		r, err := url.Parse(registered)
		if err != nil || r.Scheme != u.Scheme || r.Path != u.Path || r.RawQuery != u.RawQuery {
			return false
		}
		want, err := netip.ParseAddr(r.Hostname())
		got, err2 := netip.ParseAddr(u.Hostname())
		return err == nil && err2 == nil && want == got && got.IsLoopback()
	})
}
