package conformance_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// crafted is a certificate as PROTOCOL.certkeys lays it out, byte by byte, because the libraries refuse to make the ones that
// matter here.
type crafted struct {
	subject    ssh.PublicKey
	serial     uint64
	kind       uint32
	keyID      string
	principals []string
	after      uint64
	before     uint64
	critical   []option
	extensions []option
	reserved   string
	authority  ssh.Signer
	algorithm  string // of the signature; empty for that of the key
	trailing   string // after the signature
}

// option is a critical option or an extension. data is what stands after its name, as it is on the wire.
type option struct{ name, data string }

// flag is an option without a value.
func flag(name string) option { return option{name: name} }

// value is an option with a value, which is a string inside the data.
func value(name, value string) option { return option{name, wireString(value)} }

// good returns a certificate that sshd accepts: for one principal, around now, signed by authority.
func good(subject ssh.PublicKey, authority ssh.Signer, principal string) *crafted {
	now := uint64(time.Now().Unix())
	return &crafted{
		subject: subject, serial: 7, kind: ssh.UserCert, keyID: "crafted", principals: []string{principal},
		after: now - 300, before: now + 3600, extensions: []option{flag("permit-pty")}, authority: authority,
	}
}

// wire returns the certificate, signed.
func (c *crafted) wire(t testing.TB) []byte {
	t.Helper()
	keyType, keyFields := splitKey(t, c.subject)
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(wireString(certificateType(keyType)))
	b.WriteString(wireString(string(nonce)))
	b.WriteString(keyFields)
	b.Write(binary.BigEndian.AppendUint64(nil, c.serial))
	b.Write(binary.BigEndian.AppendUint32(nil, c.kind))
	b.WriteString(wireString(c.keyID))
	var principals strings.Builder
	for _, p := range c.principals {
		principals.WriteString(wireString(p))
	}
	b.WriteString(wireString(principals.String()))
	b.Write(binary.BigEndian.AppendUint64(nil, c.after))
	b.Write(binary.BigEndian.AppendUint64(nil, c.before))
	b.WriteString(wireString(wireOptions(c.critical)))
	b.WriteString(wireString(wireOptions(c.extensions)))
	b.WriteString(wireString(c.reserved))
	b.WriteString(wireString(string(c.authority.PublicKey().Marshal())))
	return []byte(b.String() + wireString(string(c.sign(t, []byte(b.String())))) + c.trailing)
}

func (c *crafted) sign(t testing.TB, toBeSigned []byte) []byte {
	t.Helper()
	algorithm := c.algorithm
	if algorithm == "" && c.authority.PublicKey().Type() == ssh.KeyAlgoRSA {
		algorithm = ssh.KeyAlgoRSASHA512
	}
	signer, ok := c.authority.(ssh.AlgorithmSigner)
	if !ok {
		t.Fatalf("%T cannot choose its algorithm", c.authority)
	}
	signature, err := signer.SignWithAlgorithm(rand.Reader, toBeSigned, algorithm)
	if err != nil {
		t.Fatalf("sign certificate: %v", err)
	}
	return ssh.Marshal(signature)
}

// certificateType returns the name of certificates of keys of a type: "ssh-ed25519-cert-v01@openssh.com" for "ssh-ed25519".
func certificateType(keyType string) string {
	return strings.TrimSuffix(keyType, "@openssh.com") + "-cert-v01@openssh.com"
}

// splitKey returns the type of a key and its fields as they are on the wire.
func splitKey(t testing.TB, key ssh.PublicKey) (keyType, fields string) {
	t.Helper()
	wire := string(key.Marshal())
	head := wireString(key.Type())
	if !strings.HasPrefix(wire, head) {
		t.Fatalf("the key of type %s does not begin with its type", key.Type())
	}
	return key.Type(), strings.TrimPrefix(wire, head)
}

func wireString(s string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s
}

func wireOptions(options []option) string {
	var b strings.Builder
	for _, o := range options {
		b.WriteString(wireString(o.name) + wireString(o.data))
	}
	return b.String()
}

// identity is a private key: in a file for ssh, and at hand. signer is nil for a security key, which only OpenSSH can use.
type identity struct {
	path   string
	public ssh.PublicKey
	signer ssh.Signer
}

// prove returns the SSHSIG blob by which a request shows that it has the key.
func (i identity) prove(t testing.TB, request []byte) []byte {
	t.Helper()
	if i.signer == nil {
		return i.proveByTouch(t, request)
	}
	signature, err := sshsig.Sign(bytes.NewReader(request), i.signer, sshsig.HashSHA512, ca.RequestNamespace)
	if err != nil {
		t.Fatal(err)
	}
	return signature.Marshal()
}

// keys makes private keys by their kinds, each once: RSA keys take a while.
type keys struct {
	t    testing.TB
	mu   sync.Mutex
	made map[string]identity
}

func newKeys(t testing.TB) *keys { return &keys{t: t, made: map[string]identity{}} }

// get returns the key of a kind and a name: "ed25519 user" and "ed25519 ca" are two.
func (k *keys) get(name string) identity {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if made, ok := k.made[name]; ok {
		return made
	}
	private := generate(k.t, strings.Fields(name)[0])
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		k.t.Fatal(err)
	}
	path := filepath.Join(k.t.TempDir(), "key")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		k.t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		k.t.Fatal(err)
	}
	k.made[name] = identity{path, signer.PublicKey(), signer}
	return k.made[name]
}

func generate(t testing.TB, kind string) (private crypto.PrivateKey) {
	t.Helper()
	var err error
	switch kind {
	case "ed25519":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa521":
		private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "rsa1024":
		private, err = rsa.GenerateKey(rand.Reader, 1024)
	case "rsa2048":
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "rsa3072":
		private, err = rsa.GenerateKey(rand.Reader, 3072)
	default:
		t.Fatalf("there are no keys of kind %q", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return private
}
