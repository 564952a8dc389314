package agentkey

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	_ "crypto/sha512" // the hash of SSHSIG
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// comment marks our key in an agent, so that no other is ever removed.
const comment = "hallpass sign-in"

// ErrGone says that the private half of the key is nowhere to be found: the agent was restarted, its lifetime is over, or the
// agent is locked, which then looks empty.
var ErrGone = errors.New("the agent does not show the key of this sign-in: it was restarted or emptied, or it is locked (ssh-add -X unlocks it)")

// Candidate is a key that may become that of a sign-in. Until it is installed, a fresh one exists in memory only.
type Candidate struct {
	Public  ssh.PublicKey
	private ed25519.PrivateKey // nil for the user's own
	file    string             // private key file of the user's own; empty if only an agent has it
}

// New makes a fresh Ed25519 key.
func New() (*Candidate, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return &Candidate{Public: key, private: private}, nil
}

// Own takes the user's own key from its public key file. Its private half is beside it, without ".pub", or in the agent.
func Own(publicFile string) (*Candidate, error) {
	key, err := readPublic(publicFile)
	if err != nil {
		return nil, err
	}
	c := &Candidate{Public: key}
	private, err := filepath.Abs(strings.TrimSuffix(publicFile, ".pub"))
	if err != nil {
		return nil, err
	}
	if private != publicFile {
		if _, err := os.Stat(private); err == nil {
			c.file = private
		}
	}
	return c, nil
}

func readPublic(file string) (ssh.PublicKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey(text)
	if err != nil || len(options) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("read public key %s: it is not one public key on one line", file)
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return nil, fmt.Errorf("read public key %s: it is a certificate; give the plain public key", file)
	}
	return key, nil
}

// Folder is where ssh finds the key of a sign-in: "key.pub", and "key" unless an agent holds the private half. ssh reads the
// public half beside an IdentityFile that does not exist, so that one line serves both.
type Folder struct {
	// Path is private to the user.
	Path string
	// Runtime is a folder on a tmpfs, private to the user, for a private key without an agent; empty if there is none.
	Runtime string
	// Socket is the agent's, SSH_AUTH_SOCK; empty if there is none.
	Socket string
	// NoPrompt forbids to ask for a passphrase.
	NoPrompt bool
	// Stderr is where ssh-keygen asks for a touch.
	Stderr io.Writer
}

// Identity is the path for IdentityFile.
func (f Folder) Identity() string { return filepath.Join(f.Path, "key") }

// runtimeFile is named after the folder, so that two do not share a key.
func (f Folder) runtimeFile() string {
	digest := sha256.Sum256([]byte(f.Path))
	return filepath.Join(f.Runtime, fmt.Sprintf("key-%x", digest[:4]))
}

func (f Folder) publicFile() string { return f.Identity() + ".pub" }

// Install makes c the key of the sign-in, in place of the one before. The note is what the user should know about where a
// fresh key went; it is empty if all is as it should be.
func (f Folder) Install(ctx context.Context, c *Candidate, lifetime time.Duration) (note string, err error) {
	if err := f.Remove(ctx); err != nil {
		return "", err
	}
	if err := f.make(); err != nil {
		return "", err
	}
	if c.private == nil {
		err = f.installOwn(ctx, c)
	} else {
		note, err = f.installFresh(ctx, c, lifetime)
	}
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(f.publicFile(), publicLine(c.Public), 0o600); err != nil {
		return "", fmt.Errorf("write public key: %w", err)
	}
	return note, nil
}

func publicLine(key ssh.PublicKey) []byte {
	return []byte(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " " + comment + "\n")
}

// make makes the folder, unless others could put files of their own there.
func (f Folder) make() error {
	if err := os.MkdirAll(f.Path, 0o700); err != nil {
		return fmt.Errorf("make the folder for keys: %w", err)
	}
	if err := CheckFolder(f.Path); err != nil {
		return fmt.Errorf("the folder for keys cannot be trusted: %w", err)
	}
	return nil
}

// makeRuntime makes the folder for a private key without an agent.
func (f Folder) makeRuntime() error {
	if err := makeRuntime(f.Runtime); err != nil {
		return fmt.Errorf("the private key cannot be kept below XDG_RUNTIME_DIR: %w (without that variable, it is kept with the sign-in)", err)
	}
	return nil
}

// Usable tells whether c can be installed, as far as that can be known before.
func (f Folder) Usable(ctx context.Context, c *Candidate) error {
	if err := f.make(); err != nil {
		return err
	}
	if c.private != nil && f.Socket == "" && f.Runtime != "" {
		return f.makeRuntime()
	}
	if c.private == nil && c.file == "" && !agentHolds(ctx, f.Socket, c.Public) {
		return errors.New("the private key is neither beside the public key nor in the agent")
	}
	return nil
}

func (f Folder) installOwn(ctx context.Context, c *Candidate) error {
	if c.file == "" {
		return f.Usable(ctx, c)
	}
	if err := os.Symlink(c.file, f.Identity()); err != nil {
		return fmt.Errorf("link private key: %w", err)
	}
	return nil
}

func (f Folder) installFresh(ctx context.Context, c *Candidate, lifetime time.Duration) (note string, err error) {
	agentErr := addToAgent(ctx, f.Socket, c, lifetime)
	if agentErr == nil {
		return "", nil
	}
	if !errors.Is(agentErr, ErrNoAgent) {
		note = agentErr.Error() + "; "
	}
	block, err := ssh.MarshalPrivateKey(c.private, comment)
	if err != nil {
		return "", fmt.Errorf("encode private key: %w", err)
	}
	path := f.Identity()
	if f.Runtime != "" {
		path = f.runtimeFile()
		if err := f.makeRuntime(); err != nil {
			return "", err
		}
	}
	if err := writePrivate(path, block); err != nil {
		return "", err
	}
	if path == f.Identity() {
		return note + "with neither an agent nor a runtime folder, the private key is in " + path + " until you log out", nil
	}
	if err := os.Symlink(path, f.Identity()); err != nil {
		return "", fmt.Errorf("link private key: %w", err)
	}
	return note + "without an agent, the private key is in " + path, nil
}

// Remove takes the key of the sign-in away, its private half too if it was made for it.
func (f Folder) Remove(ctx context.Context) error {
	if target, err := os.Readlink(f.Identity()); err == nil && f.Runtime != "" && target == f.runtimeFile() {
		if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove private key: %w", err)
		}
	}
	if key, err := readPublic(f.publicFile()); err == nil {
		// An agent that cannot be asked does not stop a logout: the lifetime ends the key.
		_ = removeFromAgent(ctx, f.Socket, key)
	}
	for _, file := range []string{f.Identity(), f.publicFile()} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove key: %w", err)
		}
	}
	return nil
}

// Public returns the public key of the sign-in. The error is os.ErrNotExist if there is none.
func (f Folder) Public() (ssh.PublicKey, error) { return readPublic(f.publicFile()) }

// IsSecurityKey tells whether the key of the sign-in is an sk key (PROTOCOL.u2f).
func (f Folder) IsSecurityKey() bool {
	key, err := f.Public()
	return err == nil && strings.HasPrefix(key.Type(), "sk-")
}

// Held tells whether the private half of key is in the agent or in the file. The error is ErrGone if it is in neither.
func (f Folder) Held(ctx context.Context, key ssh.PublicKey) error {
	if _, err := os.Stat(f.Identity()); err == nil || agentHolds(ctx, f.Socket, key) {
		return nil
	}
	return ErrGone
}

// Sign makes an SSHSIG blob (hash sha512) over message with the key of the sign-in, which must be key.
func (f Folder) Sign(ctx context.Context, key ssh.PublicKey, namespace string, message []byte) ([]byte, error) {
	if agentHolds(ctx, f.Socket, key) {
		var blob []byte
		err := withAgent(ctx, f.Socket, func(a agent.ExtendedAgent) (err error) {
			blob, err = sign(agentSigner{a, key}, namespace, message)
			return err
		})
		return blob, err
	}
	text, err := os.ReadFile(f.Identity())
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	if signer, err := ssh.ParsePrivateKey(text); err == nil {
		return sign(signer, namespace, message)
	}
	return f.signWithKeygen(ctx, namespace, message)
}

func sign(signer ssh.Signer, namespace string, message []byte) ([]byte, error) {
	sig, err := sshsig.Sign(bytes.NewReader(message), signer, sshsig.HashSHA512, namespace)
	if err != nil {
		return nil, fmt.Errorf("sign with the key of this sign-in: %w", err)
	}
	return sig.Marshal(), nil
}

// signWithKeygen signs with a key that only OpenSSH can use: an sk key, or one with a passphrase.
func (f Folder) signWithKeygen(ctx context.Context, namespace string, message []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "ssh-keygen", "-q", "-Y", "sign", "-O", "hashalg=sha512", "-n", namespace, "-f", f.Identity())
	cmd.Stdin = bytes.NewReader(message)
	cmd.Stderr = f.Stderr
	cmd.Env = os.Environ()
	if f.NoPrompt { // OpenSSH asks this program instead of the terminal; it says no
		cmd.Env = append(cmd.Env, "SSH_ASKPASS=false", "SSH_ASKPASS_REQUIRE=force", "DISPLAY=")
	}
	armored, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("sign with ssh-keygen: %w", err)
	}
	sig, err := sshsig.Unarmor(armored)
	if err != nil {
		return nil, fmt.Errorf("sign with ssh-keygen: %w", err)
	}
	return sig.Marshal(), nil
}
