package ca

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/crypto/ssh"
)

const (
	// minCARSABits is the shortest RSA modulus of a CA key.
	minCARSABits = 3072
	maxKeyFile   = 64 << 10
)

// Authority is a named CA key. Make one with LoadFile or OpenAgent.
type Authority struct {
	Name      string
	PublicKey ssh.PublicKey
	// Source says where the private key lives: "file" or "agent".
	Source string

	// sign makes one signature over data, in the one algorithm of the key.
	sign func(ctx context.Context, random io.Reader, data []byte) (*ssh.Signature, error)
	// reach looks whether the private key is where it should be; nil if it was loaded.
	reach func(ctx context.Context) error
}

// Reach looks whether a signature could be had now. Nothing is signed.
func (a *Authority) Reach(ctx context.Context) error {
	if a.reach == nil {
		return nil
	}
	if err := a.reach(ctx); err != nil {
		return fmt.Errorf("reach CA key %q: %w", a.Name, err)
	}
	return nil
}

// certify appends the signature to to-be-signed bytes. The result verifies under the public key over exactly these bytes,
// whoever made the signature.
func (a *Authority) certify(ctx context.Context, random io.Reader, toBeSigned []byte) ([]byte, error) {
	sig, err := a.sign(ctx, random, toBeSigned)
	if err != nil {
		return nil, err
	}
	if sig == nil || sig.Format != signatureFormat(a.PublicKey) || len(sig.Rest) > 0 {
		return nil, errors.New("the signature is not of the algorithm asked for")
	}
	if err := a.PublicKey.Verify(toBeSigned, sig); err != nil {
		return nil, fmt.Errorf("check the signature: %w", err)
	}
	return appendString(slices.Clone(toBeSigned), ssh.Marshal(sig)), nil
}

// signatureFormat returns the one algorithm in which a CA key signs. sshd refuses RSA with SHA-1.
func signatureFormat(key ssh.PublicKey) string {
	if key.Type() == ssh.KeyAlgoRSA {
		return ssh.KeyAlgoRSASHA512
	}
	return key.Type()
}

// signAs makes a signature in that algorithm: left alone, RSA keys in files and RSA keys in agents choose differently.
func signAs(s ssh.Signer, random io.Reader, data []byte) (*ssh.Signature, error) {
	as, ok := s.(ssh.AlgorithmSigner)
	if !ok {
		return s.Sign(random, data) // certify checks what came out
	}
	return as.SignWithAlgorithm(random, data, signatureFormat(s.PublicKey()))
}

// LoadFile loads a private key in OpenSSH's format. The passphrase is asked for only if the key is encrypted, and may be nil
// if it must not be. A key that others can read, that is too weak, or that does not match the .pub beside it is refused.
func LoadFile(name, path string, passphrase func() ([]byte, error)) (*Authority, error) {
	text, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("load CA key %q: %w", name, err)
	}
	signer, err := parsePrivate(path, text, passphrase)
	if err != nil {
		return nil, fmt.Errorf("load CA key %q: %w", name, err)
	}
	if err := checkCAKey(signer.PublicKey()); err != nil {
		return nil, fmt.Errorf("load CA key %q from %s: %w", name, path, err)
	}
	if err := checkBeside(path+".pub", signer.PublicKey()); err != nil {
		return nil, fmt.Errorf("load CA key %q: %w", name, err)
	}
	return &Authority{
		Name: name, PublicKey: wired(signer.PublicKey()), Source: "file",
		sign: func(_ context.Context, random io.Reader, data []byte) (*ssh.Signature, error) {
			return signAs(signer, random, data)
		},
	}, nil
}

// readPrivate reads a file that nobody but its owner can.
func readPrivate(path string) ([]byte, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() { // opening a named pipe would wait for its other end
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%s can be used by others (its mode is %04o): chmod 600 %s, and think about who has read it", path, mode, path)
	}
	if err := checkOwner(path, info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(text) > maxKeyFile {
		err = fmt.Errorf("%s is too large for a key", path)
	}
	return text, err
}

func parsePrivate(path string, text []byte, passphrase func() ([]byte, error)) (ssh.Signer, error) {
	if public, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
		if _, cert := public.(*ssh.Certificate); cert {
			return nil, fmt.Errorf("%s is a certificate, which can never sign others: give the private key", path)
		}
		return nil, fmt.Errorf("%s is a public key: give the private key", path)
	}
	if block, _ := pem.Decode(text); block == nil || block.Type != "OPENSSH PRIVATE KEY" {
		return nil, fmt.Errorf("%s is not a private key in OpenSSH's format: convert it with ssh-keygen -p -f %s", path, path)
	}
	signer, err := ssh.ParsePrivateKey(text)
	if _, encrypted := errors.AsType[*ssh.PassphraseMissingError](err); encrypted {
		if passphrase == nil {
			return nil, fmt.Errorf("%s is encrypted: configure where its passphrase comes from", path)
		}
		secret, err := passphrase()
		if err != nil {
			return nil, fmt.Errorf("read the passphrase of %s: %w", path, err)
		}
		if signer, err = ssh.ParsePrivateKeyWithPassphrase(text, secret); err != nil {
			return nil, fmt.Errorf("decrypt %s: %w", path, err)
		}
		return signer, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s (Ed25519, ECDSA and RSA keys can be CA keys, those on security keys cannot): %w", path, err)
	}
	return signer, nil
}

// checkCAKey says whether a public key may be that of a CA.
func checkCAKey(key ssh.PublicKey) error {
	if _, cert := key.(*ssh.Certificate); cert {
		return errors.New("it is a certificate, which can never sign others")
	}
	if isSK(key.Type()) {
		return errors.New("it is on a security key, which cannot sign without somebody touching it")
	}
	if _, err := ParseSubjectKey(key.Marshal()); err != nil {
		return err
	}
	if k, ok := key.(ssh.CryptoPublicKey); ok {
		if bits := modulusBits(k); bits != 0 && bits < minCARSABits {
			return fmt.Errorf("it is an RSA key of %d bits: the key of a CA needs at least %d", bits, minCARSABits)
		}
	}
	return nil
}

// modulusBits returns the length of an RSA modulus, and 0 for other keys.
func modulusBits(key ssh.CryptoPublicKey) int {
	if k, ok := key.CryptoPublicKey().(*rsa.PublicKey); ok {
		return k.N.BitLen()
	}
	return 0
}

// checkBeside compares the public key file beside a private key, if there is one: hosts were told to trust that.
func checkBeside(path string, key ssh.PublicKey) error {
	public, err := readPublic(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(public.Marshal(), key.Marshal()) {
		return fmt.Errorf("%s (%s) is not the public key of the private key beside it (%s)", path, ssh.FingerprintSHA256(public), ssh.FingerprintSHA256(key))
	}
	return nil
}

// readPublic reads a file with one public key.
func readPublic(path string) (ssh.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fmt.Errorf("read public key %s: %w", path, err)
	}
	if len(options) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("read public key %s: it holds more than one plain key", path)
	}
	return key, nil
}

// CheckDistinct refuses one key for two purposes: a key that signs for two Authorities makes one of both, and one that is also
// used elsewhere (others, by what they are for) lets a signature for the one stand in for the other.
func CheckDistinct(authorities map[string]*Authority, others map[string]ssh.PublicKey) error {
	purposes := map[string]string{}
	claim := func(key ssh.PublicKey, purpose string) error {
		if first, taken := purposes[string(key.Marshal())]; taken {
			return fmt.Errorf("the key %s serves two purposes, %s and %s: make a key for each", ssh.FingerprintSHA256(key), first, purpose)
		}
		purposes[string(key.Marshal())] = purpose
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(authorities)) {
		if err := claim(authorities[name].PublicKey, fmt.Sprintf("CA key %q", name)); err != nil {
			return err
		}
	}
	for _, purpose := range slices.Sorted(maps.Keys(others)) {
		if err := claim(others[purpose], purpose); err != nil {
			return err
		}
	}
	return nil
}

// Generate makes an Ed25519 CA key at path, with mode 0600, and its public key at path.pub. It overwrites nothing.
func Generate(path string) (ssh.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	comment := filepath.Base(path)
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	line := append(bytes.TrimSuffix(ssh.MarshalAuthorizedKey(key), []byte("\n")), " "+comment+"\n"...)
	if err := create(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	if err := create(path+".pub", line, 0o644); err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	return key, nil
}

// create writes a file that must not be there, durably.
func create(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
