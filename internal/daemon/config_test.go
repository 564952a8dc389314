package daemon_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"go.etcd.io/bbolt"
	"golang.org/x/crypto/ssh"
)

// initialised makes a CA and returns its folder.
func initialised(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	_, err := daemon.Init(t.Context(), daemon.InitParams{
		Dir: dir, Issuer: "https://login.example.com", ClientID: "hallpass", Listen: "127.0.0.1:0", Names: []string{"localhost"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// edit replaces text in the configuration.
func edit(t *testing.T, dir, old, text string) {
	t.Helper()
	file := filepath.Join(dir, daemon.ConfigName)
	config := string(read(t, file))
	if !strings.Contains(config, old) {
		t.Fatalf("the configuration has no %q:\n%s", old, config)
	}
	write(t, file, strings.Replace(config, old, text, 1))
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	write(t, to, string(read(t, from)))
}

// run runs a daemon that cannot start, and returns why.
func run(t *testing.T, dir string, change ...func(*daemon.Config)) error {
	t.Helper()
	cfg, err := daemon.LoadConfig(filepath.Join(dir, daemon.ConfigName))
	if err != nil {
		return err
	}
	for _, f := range change {
		f(cfg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // one that runs all the same ends without an error
	defer cancel()
	return daemon.Run(ctx, cfg, &bytes.Buffer{})
}

// files returns the content of every file below dir.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all[path] = string(read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// sinkOf adds a sink to the configuration.
func sinkOf(fields string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) { edit(t, dir, "policy:", "sinks: [{name: s, "+fields+"}]\npolicy:") }
}

// Each mistake keeps the daemon from starting, with an error that names the file or the field, and nothing is changed.
func TestMistakesKeepTheDaemonFromStarting(t *testing.T) {
	at := func(dir, name string) string { return filepath.Join(dir, name) }
	for _, tt := range []struct {
		name string
		make func(t *testing.T, dir string)
		want []string
	}{
		{"an unknown key", func(t *testing.T, dir string) { edit(t, dir, "policy:", "polcy: x\npolicy:") }, []string{"hallpassd.yaml", "line 1", "polcy"}},
		{"a key given twice", func(t *testing.T, dir string) { edit(t, dir, "policy:", "listen: x\npolicy:") }, []string{"hallpassd.yaml", "listen"}},
		{"an unknown key of an issuer", func(t *testing.T, dir string) { edit(t, dir, "  client_id:", "  clientid: x\n  client_id:") }, []string{"hallpassd.yaml", "line", "clientid"}},
		{"a sink without a target", sinkOf("keep: 3"), []string{"sinks.s", "one of file, syslog, webhook and otlp"}},
		{"a sink with two targets", sinkOf("file: a, otlp: https://x"), []string{"sinks.s", "one of"}},
		{"a sink with a key of another kind", sinkOf("file: a, key_file: b"), []string{"sinks.s", "key_file belongs to a sink with webhook"}},
		{"a webhook that nobody signs for", sinkOf("webhook: https://x"), []string{"sinks.s", "needs key_file"}},
		{"a webhook whose key others can read", func(t *testing.T, dir string) {
			write(t, at(dir, "hook"), strings.Repeat("k", 32))
			chmod(t, at(dir, "hook"), 0o644)
			sinkOf("webhook: https://x, key_file: hook")(t, dir)
		}, []string{"sinks.s", "hook", "0644"}},
		{"a webhook whose key is short", func(t *testing.T, dir string) {
			write(t, at(dir, "hook"), "short\n")
			sinkOf("webhook: https://x, key_file: hook")(t, dir)
		}, []string{"sinks.s", "5 bytes", "at least 32"}},
		{"a collector over plain http", sinkOf("otlp: http://collector.example.com"), []string{"sinks.s", "https://"}},
		{"a syslog server without a port", sinkOf("syslog: tls://logs.example.com"), []string{"sinks.s", "tls://host:port"}},
		{"a syslog server over udp", sinkOf("syslog: udp://127.0.0.1:514"), []string{"sinks.s", "tls, tcp or unixgram"}},
		{"two sinks of one name", func(t *testing.T, dir string) {
			edit(t, dir, "policy:", "sinks: [{name: s, file: a}, {name: s, file: b}]\npolicy:")
		}, []string{"two are named", `"s"`}},
		{"two sinks to one file", func(t *testing.T, dir string) {
			edit(t, dir, "policy:", fmt.Sprintf("sinks: [{name: a, file: x/../events}, {name: b, file: %q}]\npolicy:", at(dir, "events")))
		}, []string{"sinks.b", "events is what sinks.a writes"}},
		{"a witness to the file of a sink", func(t *testing.T, dir string) {
			edit(t, dir, "policy:", "sinks: [{name: a, file: ./events}]\nwitnesses: [{url: 'https://x'}, {file: events}]\npolicy:")
		}, []string{"witnesses: number 2", "events is what sinks.a writes"}},
		{"two witnesses to one repository", func(t *testing.T, dir string) {
			edit(t, dir, "policy:", "witnesses: [{git: a.git}, {git: a.git/}]\npolicy:")
		}, []string{"witnesses: number 2", "a.git/ is what witnesses: number 1 writes"}},
		{"a sink to the log", sinkOf("file: ./log.db"), []string{"sinks.s", "log.db is the log"}},
		{"a sink to the head of the log", sinkOf("file: log.db.head"), []string{"sinks.s", "is the head of the log"}},
		{"a sink to the key of the log", sinkOf("file: keys/log"), []string{"sinks.s", "keys/log is a file of keys"}},
		{"a sink to a CA key", sinkOf("file: keys/ca-prod"), []string{"sinks.s", "keys/ca-prod is a file of keys"}},
		{"a sink to the TLS certificate", sinkOf("file: tls/cert.pem"), []string{"sinks.s", "tls/cert.pem is a file of keys"}},
		{"a sink to its cursor", sinkOf("file: sinks/s.cursor"), []string{"sinks.s", "is where the sink s stopped"}},
		{"a sink to the policy", sinkOf("file: policy/teams/events"), []string{"sinks.s", "in the folder of the policy"}},
		{"a witness to the configuration", func(t *testing.T, dir string) {
			edit(t, dir, "policy:", "witnesses: [{file: hallpassd.yaml}]\npolicy:")
		}, []string{"witnesses: number 1", "is the configuration"}},
		{"a second document", func(t *testing.T, dir string) { edit(t, dir, "policy:", "---\npolicy:") }, []string{"hallpassd.yaml"}},
		{"no configuration", func(t *testing.T, dir string) { os.Remove(at(dir, daemon.ConfigName)) }, []string{"hallpassd.yaml", "hallpassd init"}},
		{"an empty configuration", func(t *testing.T, dir string) { write(t, at(dir, daemon.ConfigName), "") }, []string{"hallpassd.yaml"}},
		{"a CA key that others can read", func(t *testing.T, dir string) { chmod(t, at(dir, "keys/ca-prod"), 0o644) }, []string{"keys/ca-prod", "0644", "chmod 600"}},
		{"a CA key that the group can read", func(t *testing.T, dir string) { chmod(t, at(dir, "keys/ca-prod"), 0o640) }, []string{"keys/ca-prod", "0640"}},
		{"a TLS key that others can read", func(t *testing.T, dir string) { chmod(t, at(dir, "tls/key.pem"), 0o604) }, []string{"tls/key.pem", "0604", "chmod 600"}},
		{"a log key that others can read", func(t *testing.T, dir string) { chmod(t, at(dir, "keys/log"), 0o660) }, []string{"keys/log", "0660", "chmod 600"}},
		{"one key for two authorities", func(t *testing.T, dir string) {
			copyFile(t, at(dir, "keys/ca-default"), at(dir, "keys/ca-prod"))
			copyFile(t, at(dir, "keys/ca-default.pub"), at(dir, "keys/ca-prod.pub"))
		}, []string{"two purposes", `"default"`, `"prod"`}},
		{"the TLS key as a CA key", tlsKeyFromCAKey, []string{"two purposes", "the TLS key", `"default"`}},
		{"the log key as a CA key", caKeyFromLogKey, []string{"two purposes", "the log key", `"default"`}},
		{"a public key of another private key", func(t *testing.T, dir string) {
			copyFile(t, at(dir, "keys/ca-default.pub"), at(dir, "keys/ca-prod.pub"))
		}, []string{"keys/ca-prod.pub", "not the public key"}},
		{"a public key as a CA key", func(t *testing.T, dir string) {
			edit(t, dir, "{key: keys/ca-prod}", "{key: keys/ca-prod.pub}")
			chmod(t, at(dir, "keys/ca-prod.pub"), 0o600)
		}, []string{"keys/ca-prod.pub", "public key"}},
		{"no CA key", func(t *testing.T, dir string) { os.Remove(at(dir, "keys/ca-prod")) }, []string{"keys/ca-prod", `"prod"`}},
		{"a TLS certificate of another key", func(t *testing.T, dir string) {
			copyFile(t, at(initialised(t), "tls/cert.pem"), at(dir, "tls/cert.pem"))
		}, []string{"tls/cert.pem"}},
		{"a CA key that is a named pipe", func(t *testing.T, dir string) { pipe(t, at(dir, "keys/ca-prod")) }, []string{"keys/ca-prod", "regular file"}},
		{"a log key that is a named pipe", func(t *testing.T, dir string) { pipe(t, at(dir, "keys/log")) }, []string{"keys/log", "regular file"}},
		{"a TLS key that is a named pipe", func(t *testing.T, dir string) { pipe(t, at(dir, "tls/key.pem")) }, []string{"tls/key.pem", "regular file"}},
		{"a link to a CA key that others can read", func(t *testing.T, dir string) {
			chmod(t, at(dir, "keys/ca-prod"), 0o644)
			if err := errors.Join(os.Rename(at(dir, "keys/ca-prod"), at(dir, "keys/moved")), os.Symlink("moved", at(dir, "keys/ca-prod"))); err != nil {
				t.Fatal(err)
			}
		}, []string{"keys/ca-prod", "0644"}},
		{"an agent without a pinned key", func(t *testing.T, dir string) {
			edit(t, dir, "{key: keys/ca-prod}", "{agent: /run/agent}")
		}, []string{"authorities.prod", "public_key"}},
		{"a key and an agent", func(t *testing.T, dir string) {
			edit(t, dir, "{key: keys/ca-prod}", "{key: keys/ca-prod, agent: /run/agent, public_key: x}")
		}, []string{"authorities.prod"}},
		{"an issuer over plain http", func(t *testing.T, dir string) { edit(t, dir, "https://login.example.com", "http://login.example.com") }, []string{"issuer people", "http"}},
		{"an issuer over plain http that is allowed to, and is not on loopback", func(t *testing.T, dir string) {
			edit(t, dir, "https://login.example.com\"", "http://login.example.com\"\n  insecure: true")
		}, []string{"issuer people", "https://"}},
		{"an issuer that serves every organisation", func(t *testing.T, dir string) {
			edit(t, dir, "https://login.example.com", "https://login.microsoftonline.com/common/v2.0")
		}, []string{"issuer people", "every organisation"}},
		{"Google without an organisation", func(t *testing.T, dir string) {
			edit(t, dir, "https://login.example.com", "https://accounts.google.com")
		}, []string{"issuer people", "hd"}},
		{"an empty client id", func(t *testing.T, dir string) { edit(t, dir, `client_id: "hallpass"`, `client_id: ""`) }, []string{"issuers.people", "client_id"}},
		{"no issuer", func(t *testing.T, dir string) {
			config := string(read(t, at(dir, daemon.ConfigName)))
			before, _, _ := strings.Cut(config, "issuers:")
			write(t, at(dir, daemon.ConfigName), before)
		}, []string{"issuers"}},
		{"no TLS", func(t *testing.T, dir string) {
			edit(t, dir, "tls:\n  certificate: tls/cert.pem\n  key: tls/key.pem\n", "")
		}, []string{"tls", "plaintext"}},
		{"an address without a port", func(t *testing.T, dir string) { edit(t, dir, "127.0.0.1:0", "127.0.0.1") }, []string{"listen", "host:port"}},
		{"a port that is none", func(t *testing.T, dir string) { edit(t, dir, "127.0.0.1:0", "127.0.0.1:65536") }, []string{"hallpassd.yaml", "listen", "host:port"}},
		{"a kind of caller that is none", func(t *testing.T, dir string) {
			edit(t, dir, "  client_id:", "  kind: robot\n  client_id:")
		}, []string{"hallpassd.yaml", "issuers.people", "robot"}},
		{"an algorithm that everybody can sign with", func(t *testing.T, dir string) {
			edit(t, dir, "  client_id:", "  algorithms: [HS256]\n  client_id:")
		}, []string{"hallpassd.yaml", "issuer people", "HS256"}},
		{"roots of an issuer that are not there", func(t *testing.T, dir string) {
			edit(t, dir, "  client_id:", "  ca_file: nowhere.pem\n  client_id:")
		}, []string{"hallpassd.yaml", "issuer people", "nowhere.pem"}},
		{"a lifetime without a unit", func(t *testing.T, dir string) { edit(t, dir, "issuers:", "limits: {max_ttl: 3}\nissuers:") }, []string{"hallpassd.yaml", "line"}},
		{"backdating into the future", func(t *testing.T, dir string) { edit(t, dir, "issuers:", "limits: {skew: -1m}\nissuers:") }, []string{"limits.skew", "between 0 and 5m"}},
		{"lifetimes of more than a day", func(t *testing.T, dir string) { edit(t, dir, "issuers:", "limits: {max_ttl: 25h}\nissuers:") }, []string{"limits.max_ttl"}},
		{"backdating by more than five minutes", func(t *testing.T, dir string) { edit(t, dir, "issuers:", "limits: {skew: 6m}\nissuers:") }, []string{"limits.skew"}},
		{"backdating by part of a second", func(t *testing.T, dir string) { edit(t, dir, "issuers:", "limits: {skew: 1500ms}\nissuers:") }, []string{"limits.skew"}},
		{"the log of another CA", func(t *testing.T, dir string) { copyFile(t, at(initialised(t), "log.db"), at(dir, "log.db")) }, []string{"log.db"}},
		{"no log", func(t *testing.T, dir string) { os.Remove(at(dir, "log.db")) }, []string{"log.db"}},
		{"a log that was cut off", func(t *testing.T, dir string) {
			file := at(dir, "log.db")
			if err := os.Truncate(file, int64(len(read(t, file))/2)); err != nil {
				t.Fatal(err)
			}
		}, []string{"log.db", "the file is damaged", "`hallpassd restore` puts a backup in its place"}},
		{"a log of a newer format", func(t *testing.T, dir string) {
			logfile.Edit(t, at(dir, "log.db"), func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte{audit.Format + 1})
			})
		}, []string{"log.db", "format", "newer program"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := initialised(t)
			tt.make(t, dir)
			before := files(t, dir)
			err := run(t, dir)
			if err == nil {
				t.Fatal("the daemon ran")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if diff := cmp.Diff(before, files(t, dir)); diff != "" {
				t.Errorf("files changed (-before +after):\n%.2000s", diff)
			}
		})
	}
}

// pipe puts a named pipe that nobody writes to in place of a file.
func pipe(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// tlsKeyFromCAKey serves TLS with the key "default".
func tlsKeyFromCAKey(t *testing.T, dir string) {
	parsed, err := ssh.ParseRawPrivateKey(read(t, filepath.Join(dir, "keys", "ca-default")))
	if err != nil {
		t.Fatal(err)
	}
	key, ok := parsed.(*ed25519.PrivateKey)
	if !ok {
		t.Fatalf("the CA key is a %T", parsed)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), *key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(*key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tls", "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, filepath.Join(dir, "tls", "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

// caKeyFromLogKey signs certificates for "default" with the key of the log.
func caKeyFromLogKey(t *testing.T, dir string) {
	private := ed25519.NewKeyFromSeed(logSeed(t, dir))
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "keys", "ca-default.pub"))
	write(t, filepath.Join(dir, "keys", "ca-default"), string(pem.EncodeToMemory(block)))
}

func TestAClockBeforeTheRelease(t *testing.T) {
	dir := initialised(t)
	err := run(t, dir, func(cfg *daemon.Config) {
		cfg.Now = func() time.Time { return time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC) }
	})
	if err == nil || !strings.Contains(err.Error(), "2020-01-01") || !strings.Contains(err.Error(), "clock") {
		t.Errorf("got %v, want an error about the clock", err)
	}
}

func TestASecondDaemon(t *testing.T) {
	dir := initialised(t)
	key, err := audit.LoadLogKey(filepath.Join(dir, "keys", "log"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := bolt.Open(filepath.Join(dir, "log.db"), bolt.Config{LogKey: key, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := run(t, dir); err == nil || !strings.Contains(err.Error(), "log.db") {
		t.Errorf("got %v, want an error about the log", err)
	}
}

func chmod(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
