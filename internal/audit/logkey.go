package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// LogKey signs the checkpoints of one log. Its name is the id of that log, so that a key and a log that do not belong together
// cannot be taken for each other.
type LogKey struct {
	signer   note.Signer
	public   ed25519.PublicKey
	verifier string
}

// GenerateLogKey makes the key of a new log, and with it the log's id: 32 random hexadecimal digits. It returns also the text
// from which ParseLogKey makes the key again, which is secret.
func GenerateLogKey() (*LogKey, string, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, "", fmt.Errorf("make log id: %w", err)
	}
	secret, _, err := note.GenerateKey(rand.Reader, hex.EncodeToString(id))
	if err != nil {
		return nil, "", fmt.Errorf("make log key: %w", err)
	}
	k, err := ParseLogKey(secret)
	return k, secret, err
}

// CreateLogKey generates a key and writes it to path, which must not exist.
func CreateLogKey(path string) (*LogKey, error) {
	k, secret, err := GenerateLogKey()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make log key: %w", err)
	}
	_, err = f.WriteString(secret + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("write log key: %w", err)
	}
	return k, nil
}

// LoadLogKey reads the key from a file that only its owner may read.
func LoadLogKey(path string) (*LogKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load log key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("load log key: %s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("load log key: %s has mode %04o, so others can read it: run `chmod 600 %s`", path, mode, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load log key: %w", err)
	}
	k, err := ParseLogKey(strings.TrimSuffix(string(b), "\n"))
	if err != nil {
		return nil, fmt.Errorf("load log key %s: %w", path, err)
	}
	return k, nil
}

// ParseLogKey reads the signer line of a signed note. Its errors do not hold the secret.
func ParseLogKey(secret string) (*LogKey, error) {
	signer, err := note.NewSigner(secret)
	if err != nil {
		return nil, errors.New("it is not the signer key of a signed note")
	}
	// note keeps the public half to itself: PRIVATE+KEY+<name>+<hash>+<base64 of algorithm and seed>, where names have no plus.
	parts := strings.SplitN(secret, "+", 5)
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return nil, errors.New("it is not the Ed25519 signer key of a signed note")
	}
	public, ok := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("it has no Ed25519 public key")
	}
	verifier, err := note.NewEd25519VerifierKey(signer.Name(), public)
	if err != nil {
		return nil, fmt.Errorf("public half: %w", err)
	}
	if id, err := hex.DecodeString(signer.Name()); err != nil || len(id) != 16 || hex.EncodeToString(id) != signer.Name() {
		return nil, fmt.Errorf("its name %q is not the id of a log, 32 lower-case hexadecimal digits", signer.Name())
	}
	return &LogKey{signer: signer, public: public, verifier: verifier}, nil
}

// ID is that of the log.
func (k *LogKey) ID() string { return k.signer.Name() }

// PublicKey is for comparison with other keys: a log key has one purpose.
func (k *LogKey) PublicKey() ed25519.PublicKey { return k.public }

// Verifier is the public key in the format of signed notes: name+hash+key.
func (k *LogKey) Verifier() string { return k.verifier }
