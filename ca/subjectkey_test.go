package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
)

// basePoint is the base point of Ed25519, a key that is well formed and nobody's.
var basePoint = unhex("5866666666666666666666666666666666666666666666666666666666666666")

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// wire joins fields as SSH strings.
func wire(fields ...[]byte) []byte {
	var b []byte
	for _, f := range fields {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	return b
}

func ed25519Wire(point []byte) []byte { return wire([]byte("ssh-ed25519"), point) }

func rsaWire(e int64, n *big.Int) []byte {
	return wire([]byte("ssh-rsa"), mpint(big.NewInt(e)), mpint(n))
}

func ecdsaWire(name, curve string, point []byte) []byte {
	return wire([]byte(name), []byte(curve), point)
}

func mpint(n *big.Int) []byte {
	b := n.Bytes()
	if len(b) > 0 && b[0]&0x80 != 0 {
		b = append([]byte{0}, b...)
	}
	return b
}

// modulus returns an odd number of this length without small factors. What is asked of a subject key is asked of the number
// alone, so nobody needs its factors.
func modulus(t testing.TB, bits int) *big.Int {
	t.Helper()
	for {
		n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
		if err != nil {
			t.Fatal(err)
		}
		n.SetBit(n, bits-1, 1).SetBit(n, 0, 1)
		if new(big.Int).GCD(nil, nil, n, primorial()).Cmp(big.NewInt(1)) == 0 {
			return n
		}
	}
}

// primorial is the product of the primes up to 167.
func primorial() *big.Int {
	m := big.NewInt(1)
	for p := int64(2); p <= 167; p++ {
		if big.NewInt(p).ProbablyPrime(0) {
			m.Mul(m, big.NewInt(p))
		}
	}
	return m
}

// rocaModulus returns k*M + 65537^a mod M, the shape that CVE-2017-15361 gives a modulus.
func rocaModulus(bits int) *big.Int {
	m := primorial()
	k := new(big.Int).Lsh(big.NewInt(1), uint(bits-m.BitLen()))
	return k.Mul(k, m).Add(k, new(big.Int).Exp(big.NewInt(65537), big.NewInt(123456789), m))
}

func ecPoint(t testing.TB, curve elliptic.Curve) []byte {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

// badKey is a row of the table of keys that nobody gets certified.
type badKey struct {
	name     string
	wire     []byte
	fragment string
}

func badKeys(t testing.TB) []badKey {
	t.Helper()
	p256 := ecPoint(t, elliptic.P256())
	n := modulus(t, 3072)
	s := newStand(t)
	_, certified := s.issued(s.ask())
	good := ed25519Wire(basePoint)
	line := ssh.MarshalAuthorizedKey(newSigner(t).PublicKey())
	leadingZero := append([]byte{0, 0}, n.Bytes()...)
	return []badKey{
		{"k01 empty", nil, "SSH wire format"},
		{"k02 only the type", wire([]byte("ssh-ed25519")), "Ed25519"},
		{"k03 a type that is not that of the key inside", ecdsaWire("ecdsa-sha2-nistp256", "nistp384", ecPoint(t, elliptic.P384())), "another curve"},
		{"k03 an RSA key under the name of Ed25519", wire([]byte("ssh-ed25519"), mpint(big.NewInt(65537)), mpint(n)), "Ed25519"},
		{"k04 base64 instead of bytes", []byte(base64.StdEncoding.EncodeToString(good)), "SSH wire format"},
		{"k06 bytes after the key", append(bytes.Clone(good), 0), "something follows"},
		{"k07 a length of 2^32-1", []byte{0xff, 0xff, 0xff, 0xff, 's', 's', 'h'}, "SSH wire format"},
		{"k07 a field of 2^32-1", append(wire([]byte("ssh-ed25519")), 0xff, 0xff, 0xff, 0xff), "Ed25519"},
		{"k10 RSA of 512 bits", rsaWire(65537, modulus(t, 512)), "512 bits"},
		{"k11 RSA of 1024 bits", rsaWire(65537, modulus(t, 1024)), "1024 bits"},
		{"k12 RSA of 2047 bits", rsaWire(65537, modulus(t, 2047)), "2047 bits"},
		{"k13 RSA of 8193 bits", rsaWire(65537, modulus(t, 8193)), "8193 bits"},
		{"k14 RSA of 100,000 bits", rsaWire(65537, new(big.Int).SetBit(big.NewInt(1), 99_999, 1)), "more than any"},
		{"k15 exponent 1", rsaWire(1, n), "exponent"},
		{"k16 exponent 3", rsaWire(3, n), "exponent"},
		{"k17 an even exponent", rsaWire(65538, n), "exponent"},
		{"k18 an exponent above 2^32", rsaWire(1<<33+1, n), "exponent"},
		{"k19 exponent 0", rsaWire(0, n), "positive"},
		{"k20 a negative modulus", wire([]byte("ssh-rsa"), mpint(big.NewInt(65537)), n.Bytes()), "positive"},
		{"k21 a modulus with leading zeros", wire([]byte("ssh-rsa"), mpint(big.NewInt(65537)), leadingZero), "one encoding"},
		{"k21 an exponent with a leading zero", wire([]byte("ssh-rsa"), []byte{0, 1, 0, 1}, mpint(n)), "one encoding"},
		{"k22 an even modulus", rsaWire(65537, new(big.Int).SetBit(n, 0, 0)), "divisible by 2"},
		{"k22 a modulus with a small factor", rsaWire(65537, new(big.Int).Mul(modulus(t, 3072), big.NewInt(101))), "divisible by 101"},
		{"k23 a modulus of the ROCA generator", rsaWire(65537, rocaModulus(3072)), "CVE-2017-15361"},
		{"k25 DSA", wire([]byte("ssh-dss"), mpint(n), mpint(n), mpint(n), mpint(n)), "not certified"},
		{"k26 a point off its curve", ecdsaWire("ecdsa-sha2-nistp256", "nistp256", flip(p256, 64)), "not a point"},
		{"k27 the point at infinity", ecdsaWire("ecdsa-sha2-nistp256", "nistp256", []byte{0}), "not a point"},
		{"k27 infinity, written long", ecdsaWire("ecdsa-sha2-nistp256", "nistp256", append([]byte{4}, make([]byte, 64)...)), "not a point"},
		{"k28 a compressed point", ecdsaWire("ecdsa-sha2-nistp256", "nistp256", append([]byte{2 + p256[64]&1}, p256[1:33]...)), "not a point"},
		{"k29 a curve name that is not that of the type", ecdsaWire("ecdsa-sha2-nistp256", "nistp521", p256), "another curve"},
		{"k30 P-224", ecdsaWire("ecdsa-sha2-nistp224", "nistp224", ecPoint(t, elliptic.P224())), "not certified"},
		{"k31 Ed25519 of 31 bytes", ed25519Wire(basePoint[:31]), "Ed25519"},
		{"k31 Ed25519 of 33 bytes", ed25519Wire(append(bytes.Clone(basePoint), 0)), "Ed25519"},
		{"k32 Ed25519 of zeros", ed25519Wire(make([]byte, 32)), "full order"},
		{"k33 Ed25519 off the curve", ed25519Wire(append([]byte{2}, make([]byte, 31)...)), "full order"},
		{"k34 an sk key of no application", wire([]byte("sk-ssh-ed25519@openssh.com"), basePoint, nil), "no application"},
		{"k34 an sk key of an application with a line break", wire([]byte("sk-ssh-ed25519@openssh.com"), basePoint, []byte("ssh:\n")), "no application"},
		{"k35 an sk key of small order", wire([]byte("sk-ssh-ed25519@openssh.com"), make([]byte, 32), []byte("ssh:")), "full order"},
		{"k35 an sk key off its curve", wire([]byte("sk-ecdsa-sha2-nistp256@openssh.com"), []byte("nistp256"), flip(p256, 64), []byte("ssh:")), "not a point"},
		{"k36 a certificate", certified.Certificate, "is a certificate"},
		{"k38 an authorized_keys line with options", append([]byte(`command="x" `), line...), "SSH wire format"},
		{"k38 two lines", append(bytes.Clone(line), line...), "SSH wire format"},
		{"k38 a private key", []byte("-----BEGIN OPENSSH PRIVATE KEY-----\n"), "SSH wire format"},
		{"k39 webauthn", wire([]byte("webauthn-sk-ecdsa-sha2-nistp256@openssh.com"), p256), "not certified"},
		{"k39 a type of tomorrow", wire([]byte("ssh-mldsa-65"), make([]byte, 1952)), "not certified"},
		{"k39 a type with a terminal escape in its name", wire([]byte("\x1b[2J"), nil), `"?[2J"`},
	}
}

func TestParseSubjectKeyRefuses(t *testing.T) {
	s := newStand(t)
	for _, row := range badKeys(t) {
		t.Run(row.name, func(t *testing.T) {
			_, err := ca.ParseSubjectKey(row.wire)
			wantError(t, err, ca.Invalid, row.fragment)

			s.t = t
			s.refused(s.ask(func(r *pb.CertificateRequest) { r.PublicKey = row.wire }), ca.Invalid, row.fragment, 1)
		})
	}
	t.Run("k09 a key of 1 MiB", func(t *testing.T) {
		s.t = t
		s.refused(s.ask(func(r *pb.CertificateRequest) { r.PublicKey = make([]byte, 1<<20) }), ca.Exhausted, "too large", 1)
	})
}

// The eight points of small order, and their encodings that RFC 8032 forbids, with either sign of x.
func TestParseSubjectKeyRefusesSmallOrder(t *testing.T) {
	for _, y := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		for _, sign := range []byte{0, 0x80} {
			point := unhex(y)
			point[31] |= sign
			_, err := ca.ParseSubjectKey(ed25519Wire(point))
			wantError(t, err, ca.Invalid, "full order")
		}
	}
}

func goodKeys(t testing.TB) map[string][]byte {
	t.Helper()
	return map[string][]byte{
		"Ed25519":       ed25519Wire(basePoint),
		"sk-Ed25519":    wire([]byte("sk-ssh-ed25519@openssh.com"), basePoint, []byte("ssh:")),
		"ECDSA P-256":   ecdsaWire("ecdsa-sha2-nistp256", "nistp256", ecPoint(t, elliptic.P256())),
		"ECDSA P-384":   ecdsaWire("ecdsa-sha2-nistp384", "nistp384", ecPoint(t, elliptic.P384())),
		"ECDSA P-521":   ecdsaWire("ecdsa-sha2-nistp521", "nistp521", ecPoint(t, elliptic.P521())),
		"sk-ECDSA":      wire([]byte("sk-ecdsa-sha2-nistp256@openssh.com"), []byte("nistp256"), ecPoint(t, elliptic.P256()), []byte("ssh:")),
		"RSA 2048":      rsaWire(65537, modulus(t, 2048)),
		"RSA 3072":      rsaWire(65537, modulus(t, 3072)),
		"RSA 8192":      rsaWire(65537, modulus(t, 8192)),
		"RSA, big e":    rsaWire(1<<24-1, modulus(t, 3072)),
		"RSA, odd bits": rsaWire(65537, modulus(t, 3073)),
	}
}

func TestParseSubjectKeyAccepts(t *testing.T) {
	for name, blob := range goodKeys(t) {
		key, err := ca.ParseSubjectKey(blob)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(key.Marshal(), blob) {
			t.Errorf("%s: reads as another key", name)
		}
	}
}

func TestKeysThatOpenSSHMakesAreAccepted(t *testing.T) {
	for _, args := range [][]string{{"-t", "ed25519"}, {"-t", "ecdsa", "-b", "256"}, {"-t", "ecdsa", "-b", "384"}, {"-t", "ecdsa", "-b", "521"}, {"-t", "rsa", "-b", "2048"}} {
		path := filepath.Join(t.TempDir(), "key")
		if out, err := exec.Command("ssh-keygen", append(args, "-q", "-N", "", "-f", path)...).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
		text, err := os.ReadFile(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ca.ParseSubjectKey(key.Marshal()); err != nil {
			t.Errorf("ssh-keygen %s: %v", strings.Join(args, " "), err)
		}
	}
}

// What we accept, x/crypto reads as the same key, and it comes in one encoding only.
func FuzzSubjectKey(f *testing.F) {
	for _, row := range badKeys(f) {
		f.Add(row.wire)
	}
	for _, blob := range goodKeys(f) {
		f.Add(blob)
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		key, err := ca.ParseSubjectKey(blob)
		if err != nil {
			if kind := ca.KindOf(err); kind != ca.Invalid {
				t.Errorf("kind %v: %v", kind, err)
			}
			return
		}
		theirs, err := ssh.ParsePublicKey(blob)
		if err != nil || theirs.Type() != key.Type() || !bytes.Equal(theirs.Marshal(), blob) || !bytes.Equal(key.Marshal(), blob) {
			t.Errorf("x/crypto reads %v, %v", theirs, err)
		}
		if ca.KeyType(key.Type()) == "" {
			t.Errorf("accepted a %s", key.Type())
		}
	})
}
