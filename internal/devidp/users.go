package devidp

import "slices"

// User is a person who can sign in.
type User struct {
	Name          string // what the button on the login page says; unique
	Subject       string // the `sub` claim; unique, never reused
	Email         string
	EmailVerified bool
	Groups        []string       // the `groups` claim, if the scope `groups` was asked for; a user of none has an empty list
	Claims        map[string]any // further claims of every ID token
}

// Client is a public native client (RFC 8252): no secret, PKCE required.
type Client struct {
	ID           string
	RedirectURIs []string // loopback ones, with an IP address; a request may name any port (RFC 8252 7.3)
}

// Workload is a program that gets ID tokens by asking, as a CI job does.
type Workload struct {
	Name    string         // what it is asked for by
	Subject string         // the `sub` claim
	Claims  map[string]any // further claims
}

// DefaultUsers returns the users of a small company: one of each kind that a policy tells apart.
func DefaultUsers() []User {
	return []User{
		{Name: "alice", Subject: "u-7f3a9c21", Email: "alice@example.com", EmailVerified: true,
			Groups: []string{"developers"}, Claims: map[string]any{"contractor": false, "level": 2}},
		{Name: "bob", Subject: "u-2be804d6", Email: "bob@example.com", EmailVerified: true,
			Groups: []string{"sre", "developers"}, Claims: map[string]any{"contractor": false, "level": 3}},
		{Name: "carol", Subject: "u-c95d1e70", Email: "carol@example.com", EmailVerified: true,
			Groups: []string{"security", "ca-admins"}, Claims: map[string]any{"level": 4}},
		{Name: "dave", Subject: "u-0d46b8fa", Email: "dave@example.com", EmailVerified: true,
			Claims: map[string]any{"contractor": true}},
		{Name: "mallory", Subject: "u-e1738a55", Email: "mallory@example.com", EmailVerified: false,
			Groups: []string{"developers"}},
	}
}

// DefaultClients returns the one client `hallpass`.
func DefaultClients() []Client {
	return []Client{{ID: "hallpass", RedirectURIs: []string{"http://127.0.0.1/callback", "http://[::1]/callback"}}}
}

// DefaultWorkloads returns `ci`, a job of the default branch of one repository.
func DefaultWorkloads() []Workload {
	return []Workload{{Name: "ci", Subject: "repo:example/app:ref:refs/heads/main", Claims: map[string]any{
		"repository":          "example/app",
		"repository_id":       "1001",
		"repository_owner_id": "100",
		"ref":                 "refs/heads/main",
		"ref_protected":       "true",
		"environment":         "staging",
		"event_name":          "push",
	}}}
}

func (c *Config) userBySubject(subject string) (User, bool) {
	i := slices.IndexFunc(c.Users, func(u User) bool { return u.Subject == subject })
	if i < 0 {
		return User{}, false
	}
	return c.Users[i], true
}

func (c *Config) userByName(name string) (User, bool) {
	i := slices.IndexFunc(c.Users, func(u User) bool { return u.Name == name })
	if i < 0 {
		return User{}, false
	}
	return c.Users[i], true
}

func (c *Config) workload(name string) (Workload, bool) {
	i := slices.IndexFunc(c.Workloads, func(w Workload) bool { return w.Name == name })
	if i < 0 {
		return Workload{}, false
	}
	return c.Workloads[i], true
}
