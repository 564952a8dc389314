package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
	"go.yaml.in/yaml/v4"
)

// ConfigName is the name of the configuration file inside the daemon's folder.
const ConfigName = "hallpassd.yaml"

// Config is the daemon's one configuration file. Relative paths are relative to its folder.
type Config struct {
	// Listen is host:port; required.
	Listen string `yaml:"listen"`
	// ServerNames are the names that callers may dial; default: those of the TLS certificate.
	ServerNames []string  `yaml:"server_names"`
	TLS         TLSConfig `yaml:"tls"`
	Log         LogConfig `yaml:"log"`
	// Authorities by name; at least one.
	Authorities map[string]AuthorityConfig `yaml:"authorities"`
	Policy      PolicyConfig               `yaml:"policy"`
	Limits      LimitsConfig               `yaml:"limits"`
	Metrics     MetricsConfig              `yaml:"metrics"`
	Traces      TracesConfig               `yaml:"traces"`
	Lists       ListsConfig                `yaml:"lists"`
	// Witnesses keep the checkpoints of the log where this machine cannot take them back.
	Witnesses []WitnessConfig `yaml:"witnesses"`
	// Issuers are where people and workloads get their ID tokens; at least one.
	Issuers []IssuerConfig `yaml:"issuers"`
	// Sinks are where the log is sent, besides.
	Sinks []SinkConfig `yaml:"sinks"`

	// Now is the clock of everything that the daemon does; default time.Now.
	Now func() time.Time `yaml:"-"`
	// Uptime tells a clock that was set from time that passed; default the time since the machine was started, with sleep.
	Uptime func() time.Duration `yaml:"-"`

	file string // as it was named, for messages
	dir  string // folder of the file
}

// TLSConfig names the daemon's own certificate and its key, in PEM; both required.
type TLSConfig struct {
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// LogConfig names the log and the key that signs its checkpoints; both required.
type LogConfig struct {
	File string `yaml:"file"`
	Key  string `yaml:"key"`
}

// AuthorityConfig says where a CA key lives: in Key, or in the agent at Agent, where PublicKey pins it.
type AuthorityConfig struct {
	// Key is a private key in OpenSSH format, readable by the daemon's user alone.
	Key string `yaml:"key"`
	// PassphraseFile holds the passphrase of Key. "credential:NAME" reads a systemd credential.
	PassphraseFile string `yaml:"passphrase_file"`
	// Agent is the socket of an ssh-agent.
	Agent string `yaml:"agent"`
	// PublicKey is the file with the public key that the agent must hold.
	PublicKey string `yaml:"public_key"`
}

// LimitsConfig holds the hard limits of this daemon. Zero fields take the default.
type LimitsConfig struct {
	// MaxTTL is above every policy; default and at most 24h.
	MaxTTL time.Duration `yaml:"max_ttl"`
	// Skew is how far a certificate is backdated; default 1m, at most 5m.
	Skew time.Duration `yaml:"skew"`
	// IdentityRate and IdentityBurst limit the requests of one identity; default 50 a second, 1000 at once.
	IdentityRate  float64 `yaml:"identity_rate"`
	IdentityBurst int     `yaml:"identity_burst"`
}

// MetricsConfig says where metrics and health are served.
type MetricsConfig struct {
	// Listen is host:port, plain http; empty for none.
	Listen string `yaml:"listen"`
}

// ListsConfig says how the lists are fetched for which the policy names a URL.
type ListsConfig struct {
	// Tokens are sent to those who want one.
	Tokens []ListToken `yaml:"tokens"`
	// CAFile holds the roots that the TLS certificates chain to; default: those of the system.
	CAFile string `yaml:"ca_file"`
	// Insecure allows plain http, on loopback addresses only.
	Insecure bool `yaml:"insecure"`
}

// ListToken is a bearer token for lists at or below a URL, and nowhere else: the policy chooses where a list comes from.
type ListToken struct {
	URL string `yaml:"url"`
	// TokenFile holds the token, readable by the daemon's user alone. "credential:NAME" reads a systemd credential.
	TokenFile string `yaml:"token_file"`
}

// IssuerConfig is an OIDC issuer and the audience at which it is asked.
type IssuerConfig struct {
	// Name is short and unique: for people, what `hallpass login --issuer` takes.
	Name string `yaml:"name"`
	URL  string `yaml:"url"`
	// Kind is "person" (default) or "workload".
	Kind string `yaml:"kind"`
	// ClientID is the audience: for people the client id of the helper, a public native client.
	ClientID string `yaml:"client_id"`
	// Scopes the helper asks for; default openid email profile groups offline_access.
	Scopes []string `yaml:"scopes"`
	// Email is "verified" (default), "optional" or "none".
	Email string `yaml:"email"`
	// GroupsClaim names the claim with the groups; default "groups". Tokens of people must carry it, even if it is empty; "none"
	// is for an issuer that has no groups.
	GroupsClaim string `yaml:"groups_claim"`
	// Algorithms of ID tokens; default RS256 and ES256.
	Algorithms []string `yaml:"algorithms"`
	// Require are claims that must have a value, such as hd or tid at an issuer that serves many organisations.
	Require map[string]string `yaml:"require"`
	// CAFile holds the roots that the issuer's TLS certificate chains to; default: those of the system.
	CAFile string `yaml:"ca_file"`
	// Insecure allows plain http, for an issuer on a loopback address only.
	Insecure bool `yaml:"insecure"`
}

// SinkConfig is one place that the log is sent to: exactly one of File, Syslog, Webhook and OTLP.
type SinkConfig struct {
	// Name is short and unique.
	Name string `yaml:"name"`
	// File is a file of JSON lines; it is put aside when it has MaxMegabytes (default 100), and the newest Keep of those stay
	// (default all).
	File         string `yaml:"file"`
	MaxMegabytes int    `yaml:"max_megabytes"`
	Keep         int    `yaml:"keep"`
	// Syslog is tls://host:port, tcp://host:port or unixgram:///path.
	Syslog string `yaml:"syslog"`
	// Webhook is an https URL. KeyFile holds the key of its signatures.
	Webhook string `yaml:"webhook"`
	KeyFile string `yaml:"key_file"`
	// OTLP is an https URL, usually .../v1/logs. TokenFile holds a bearer token for it; default none.
	OTLP      string `yaml:"otlp"`
	TokenFile string `yaml:"token_file"`
	// CAFile holds the roots that the TLS certificate of the target chains to; default: those of the system.
	CAFile string `yaml:"ca_file"`
	// Insecure allows plain http, to a loopback address only.
	Insecure bool `yaml:"insecure"`
}

// kinds are those of its fields that say where to send to, and are set.
func (s SinkConfig) kinds() []string {
	var set []string
	for _, field := range []struct{ name, value string }{{"file", s.File}, {"syslog", s.Syslog}, {"webhook", s.Webhook}, {"otlp", s.OTLP}} {
		if field.value != "" {
			set = append(set, field.name)
		}
	}
	return set
}

// validate says what is wrong with a sink.
func (s SinkConfig) validate() error {
	kinds := s.kinds()
	if len(kinds) != 1 {
		return errors.New("give one of file, syslog, webhook and otlp")
	}
	for _, field := range []struct {
		name, of string
		set      bool
	}{
		{"max_megabytes", "file", s.MaxMegabytes != 0}, {"keep", "file", s.Keep != 0}, {"key_file", "webhook", s.KeyFile != ""},
		{"token_file", "otlp", s.TokenFile != ""},
	} {
		if field.set && field.of != kinds[0] {
			return fmt.Errorf("%s belongs to a sink with %s", field.name, field.of)
		}
	}
	switch {
	case s.MaxMegabytes < 0 || s.Keep < 0:
		return errors.New("max_megabytes and keep cannot be negative")
	case s.Webhook != "" && s.KeyFile == "":
		return errors.New("a webhook needs key_file: without a signature its receiver would believe anybody")
	}
	return nil
}

var defaultScopes = []string{"openid", "email", "profile", "groups", "offline_access"}

// LoadConfig reads and checks a configuration file. It reports every unknown key with its line.
func LoadConfig(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist: create it with `hallpassd init`", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	cfg := &Config{file: path, dir: filepath.Dir(path), Now: time.Now, Uptime: uptime()}
	err = d.Decode(cfg)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s is empty: `hallpassd init` writes a configuration", path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := d.Decode(new(Config)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: a second YAML document: the configuration is one document", path)
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// validate returns everything that is wrong with a configuration.
func (c *Config) validate() error {
	var errs []error
	require := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	require(validListen(c.Listen), "listen: %q is not host:port", c.Listen)
	require(c.TLS.Certificate != "" && c.TLS.Key != "", "tls: certificate and key are required: there is no plaintext listener")
	require(c.Log.File != "" && c.Log.Key != "", "log: file and key are required")
	require(len(c.Authorities) > 0, "authorities: at least one is required")
	for name, a := range c.Authorities {
		require(validName(name), "authorities: %q is not a name: use lower-case letters, digits and -", name)
		require((a.Key == "") != (a.Agent == ""), "authorities.%s: give key, or agent with public_key", name)
		require(a.Agent == "" || a.PublicKey != "", "authorities.%s: an agent needs public_key, the file that pins its key", name)
	}
	if err := c.Policy.validate(); err != nil {
		errs = append(errs, err)
	}
	if c.Metrics.Listen != "" {
		_, _, err := net.SplitHostPort(c.Metrics.Listen)
		require(err == nil, "metrics.listen: %q is not host:port", c.Metrics.Listen)
	}
	err := c.Traces.validate()
	require(err == nil, "traces: %v", err)
	require(c.Limits.MaxTTL >= 0 && c.Limits.MaxTTL <= 24*time.Hour, "limits.max_ttl: %s is not between 0 and 24h", c.Limits.MaxTTL)
	require(c.Limits.Skew >= 0 && c.Limits.Skew <= 5*time.Minute, "limits.skew: %s is not between 0 and 5m", c.Limits.Skew)
	require(c.Limits.Skew%time.Second == 0, "limits.skew: %s is not in whole seconds", c.Limits.Skew)
	require(c.Limits.IdentityRate >= 0 && c.Limits.IdentityBurst >= 0, "limits: a rate cannot be negative")
	for _, t := range c.Lists.Tokens {
		err := (issuerhttp.Config{AllowInsecure: c.Lists.Insecure}).CheckIssuer(t.URL)
		require(err == nil, "lists.tokens: %v", err)
		require(t.TokenFile != "", "lists.tokens: %s has no token_file", t.URL)
	}
	for i, w := range c.Witnesses {
		err := w.validate()
		require(err == nil, "witnesses: number %d: %v", i+1, err)
	}
	require(len(c.Issuers) > 0, "issuers: at least one is required")
	var names []string
	for _, i := range c.Issuers {
		require(validName(i.Name), "issuers: %q is not a name: use lower-case letters, digits and -", i.Name)
		require(!slices.Contains(names, i.Name), "issuers: two are named %q", i.Name)
		names = append(names, i.Name)
		require(i.Kind == "" || i.Kind == "person" || i.Kind == "workload", "issuers.%s: kind %q is neither person nor workload", i.Name, i.Kind)
		require(i.ClientID != "", "issuers.%s: client_id is required: the audience of its ID tokens", i.Name)
	}
	names = nil
	for _, s := range c.Sinks {
		require(validName(s.Name), "sinks: %q is not a name: use lower-case letters, digits and -", s.Name)
		require(!slices.Contains(names, s.Name), "sinks: two are named %q", s.Name)
		names = append(names, s.Name)
		err := s.validate()
		require(err == nil, "sinks.%s: %w", s.Name, err)
	}
	if err := c.checkOutputs(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (i IssuerConfig) kind() ca.CallerKind {
	if i.Kind == "workload" {
		return ca.Workload
	}
	return ca.Person
}

func (i IssuerConfig) scopes() []string {
	if len(i.Scopes) == 0 {
		return defaultScopes
	}
	return i.Scopes
}

// path resolves a path of the file.
func (c *Config) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

// validListen tells whether an address has a host, which may be empty, and a number of a port.
func validListen(address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func validName(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-'
}
