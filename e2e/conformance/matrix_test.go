package conformance_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/fixture/sshd"
	"golang.org/x/crypto/ssh"
)

// verdict is what sshd says to a certificate.
type verdict int

const (
	accept verdict = iota + 1
	reject
)

// cell is one cell of the matrix: a certificate, and what sshd makes of it.
type cell struct {
	id, name string
	// key is the kind of the subject key. Empty means ed25519.
	key string
	// craft makes a good certificate into that of the cell. Nil leaves it good.
	craft func(*crafted)
	// files of the server are written before the login.
	files map[string]string
	// options and flags of ssh, and the command; empty means "echo in".
	options, flags []string
	command        string

	want verdict
	// why is a fragment of what sshd logs about it. Required for reject: a login may fail for many reasons.
	why string
	// stdout is what ssh prints if the certificate is accepted; empty means "in\n", and nothing if silent.
	stdout string
	silent bool
	exit   int
	// byHand offers the certificate to sshd without ssh, which cannot read it or would not offer it. Then it is sshd who
	// refuses. Nothing is run.
	byHand bool
	// inOneSecond says that the verdict depends on the clock to the second.
	inOneSecond bool
	// check looks at more than the above.
	check func(testing.TB, *sshd.Result)
}

// matrix holds what cells need: the keys, and those of the CA.
type matrix struct {
	keys      *keys
	authority ssh.Signer
	// foreign is a key that no server trusts.
	foreign ssh.Signer
}

func newMatrix(t testing.TB) *matrix {
	k := newKeys(t)
	return &matrix{keys: k, authority: k.get("ed25519 ca").signer, foreign: k.get("ed25519 foreign").signer}
}

// publicLine is the line of a public key in files such as TrustedUserCAKeys.
func publicLine(key ssh.PublicKey) string { return string(ssh.MarshalAuthorizedKey(key)) }

// run starts a server and shows it each cell's certificate, one after the other.
func (m *matrix) run(t *testing.T, config sshd.Config, cells ...cell) {
	t.Helper()
	s := sshd.Run(t, config)
	for _, c := range cells {
		t.Run(c.id+"_"+strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) { m.runCell(t, s, c) })
	}
}

func (m *matrix) runCell(t *testing.T, s *sshd.Server, c cell) {
	for name, text := range c.files {
		if err := s.WriteFile(name, text); err != nil {
			t.Fatal(err)
		}
	}
	key := m.subject(c)
	// A login may take longer than the rest of its second. One in a few does not.
	for attempt := 1; ; attempt++ {
		begun := time.Now().Unix()
		r := m.login(t, s, c, key)
		if !c.inOneSecond || time.Now().Unix() == begun {
			judge(t, c, r)
			return
		}
		if attempt == 50 {
			t.Fatal("no login fits into one second")
		}
		time.Sleep(time.Until(time.Unix(time.Now().Unix()+1, 0)))
	}
}

// subject returns the key that a cell certifies.
func (m *matrix) subject(c cell) identity {
	if c.key == "" {
		c.key = "ed25519"
	}
	return m.keys.get(c.key + " user")
}

// login crafts the certificate of a cell and logs in with it.
func (m *matrix) login(t testing.TB, s *sshd.Server, c cell, key identity) *sshd.Result {
	t.Helper()
	cert := good(key.public, m.authority, s.Accounts()[0])
	if c.craft != nil {
		c.craft(cert)
	}
	wire := cert.wire(t)
	if c.byHand {
		return offer(t, s, key, certificateType(key.public.Type()), wire)
	}
	l := sshd.Login{Key: key.path, Certificate: writeCertificate(t, certificateType(key.public.Type()), wire), Options: c.options, Flags: c.flags, Command: c.command}
	if l.Command == "" {
		l.Command = "echo in"
	}
	r, err := s.Login(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// offered is a certificate that is on the wire as it is, whatever it says.
type offered struct {
	ssh.PublicKey
	name string
	wire []byte
}

func (o offered) Type() string    { return o.name }
func (o offered) Marshal() []byte { return o.wire }

// offering signs as the key does, in the name of a certificate.
type offering struct {
	ssh.Signer
	public offered
}

func (o offering) PublicKey() ssh.PublicKey { return o.public }

// offer logs in with whatever is on the wire, in the name of a certificate.
func offer(t testing.TB, s *sshd.Server, key identity, certType string, wire []byte) *sshd.Result {
	t.Helper()
	r := &sshd.Result{}
	lines, err := s.Watch(t.Context(), func() error {
		client, err := ssh.Dial("tcp", s.Addr, &ssh.ClientConfig{
			User:            s.Accounts()[0],
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(offering{key.signer, offered{key.public, certType, wire}})},
			HostKeyCallback: ssh.FixedHostKey(s.HostKey()),
		})
		if err != nil {
			if !strings.Contains(err.Error(), "unable to authenticate") {
				return err
			}
			r.ExitCode, r.Stderr = 255, err.Error()
			return nil
		}
		r.Accepted = true
		return client.Close()
	}, func(line string) bool {
		if r.Accepted { // sshd does not say that somebody hung up
			return strings.HasPrefix(line, "Accepted publickey for ")
		}
		return strings.HasPrefix(line, "Connection closed by authenticating user ")
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Log = lines
	return r
}

// judge holds what happened against what the cell says.
func judge(t *testing.T, c cell, r *sshd.Result) {
	t.Helper()
	if (c.want == accept) != r.Accepted {
		t.Errorf("accepted: %v; sshd logged:\n%s\nssh said:\n%s", r.Accepted, r.LogText(), r.Stderr)
		return
	}
	if !strings.Contains(r.LogText(), c.why) || c.want == reject && c.why == "" {
		t.Errorf("sshd did not log %q but:\n%s", c.why, r.LogText())
	}
	if c.want == accept && !c.byHand {
		if c.stdout == "" && !c.silent {
			c.stdout = "in\n"
		}
		if r.Stdout != c.stdout || r.ExitCode != c.exit {
			t.Errorf("the command printed %q and ended with %d, want %q and %d; ssh said:\n%s", r.Stdout, r.ExitCode, c.stdout, c.exit, r.Stderr)
		}
	}
	if c.check != nil {
		c.check(t, r)
	}
}

// banner listens on loopback and greets whoever connects. It stands for a server behind the one that is logged in to.
func banner(t testing.TB, greeting string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.Write([]byte(greeting))
				_ = conn.Close()
			}
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}
