package policy

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxSigners bounds the file of allowed signers.
const maxSigners = 1 << 20

// Signers are the keys that may sign commits: an allowed_signers file as ssh-keygen(1) and git know it.
type Signers struct {
	file  string
	lines []signerLine
}

// signerLine is a key and what it is good for.
type signerLine struct {
	line       int
	principals string
	key        ssh.PublicKey
	namespaces string    // a list of patterns; empty for all
	after      time.Time // zero for any time
	before     time.Time
}

// LoadSigners reads an allowed_signers file.
func LoadSigners(file string) (*Signers, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read allowed signers: %w", err)
	}
	if info.Size() > maxSigners || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read allowed signers: %s is no file of at most %d bytes", file, maxSigners)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read allowed signers: %w", err)
	}
	return ParseSigners(file, text)
}

// ParseSigners reads the text of an allowed_signers file. It is strict: a line that cannot be read is an error that names file and
// line, because whoever wrote it meant something.
func ParseSigners(file string, text []byte) (*Signers, error) {
	s := &Signers{file: file}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		fields := strings.TrimSpace(string(line))
		if fields == "" || fields[0] == '#' {
			continue
		}
		parsed, err := parseSigner(fields)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, number, err)
		}
		parsed.line = number
		s.lines = append(s.lines, parsed)
	}
	if len(s.lines) == 0 {
		return nil, fmt.Errorf("%s: no key is allowed to sign: write lines such as alice@example.com namespaces=\"git\" ssh-ed25519 KEY", file)
	}
	return s, nil
}

// signerKeys are the types of keys that may sign.
var signerKeys = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256,
	ssh.KeyAlgoRSA,
}

// parseSigner reads "principals [options] keytype base64 [comment]".
func parseSigner(fields string) (signerLine, error) {
	var l signerLine
	var err error
	if l.principals, fields, err = quotedField(fields); err != nil {
		return l, err
	}
	l.principals = strings.Trim(l.principals, `"`)
	if strings.Trim(l.principals, ", ") == "" {
		return l, fmt.Errorf("the line begins with no principals, such as alice@example.com")
	}
	first, _, _ := strings.Cut(fields, " ")
	if !slices.Contains(signerKeys, first) && !looksLikeKeyType(first) {
		var options string
		if options, fields, err = quotedField(fields); err != nil {
			return l, err
		}
		if err := l.options(options); err != nil {
			return l, err
		}
	}
	l.key, err = signerKey(strings.Fields(fields))
	return l, err
}

// looksLikeKeyType tells a type of key that may not sign from an option.
func looksLikeKeyType(s string) bool {
	return !strings.ContainsAny(s, "=\"") && (strings.HasPrefix(s, "ssh-") || strings.HasPrefix(s, "ecdsa-") || strings.HasPrefix(s, "sk-"))
}

// quotedField cuts the first field off, which ends at a space outside of double quotes.
func quotedField(s string) (field, rest string, err error) {
	quoted := false
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' && (i == 0 || s[i-1] != '\\'):
			quoted = !quoted
		case (c == ' ' || c == '\t') && !quoted:
			return s[:i], strings.TrimLeft(s[i:], " \t"), nil
		}
	}
	if quoted {
		return "", "", fmt.Errorf("a double quote is not closed")
	}
	return s, "", nil
}

func signerKey(fields []string) (ssh.PublicKey, error) {
	if len(fields) < 2 {
		return nil, fmt.Errorf("the line has no key: write principals, options, key type and key")
	}
	if !slices.Contains(signerKeys, fields[0]) {
		return nil, fmt.Errorf("a key of type %q cannot sign: use one of %s", fields[0], strings.Join(signerKeys, ", "))
	}
	wire, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return nil, fmt.Errorf("the key is not in base64: %w", err)
	}
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, fmt.Errorf("the key cannot be read: %w", err)
	}
	if key.Type() != fields[0] {
		return nil, fmt.Errorf("the key is of type %s, not %s", key.Type(), fields[0])
	}
	if weak := tooShort(key); weak != nil {
		return nil, weak
	}
	return key, nil
}

// tooShort refuses RSA keys of less than 2048 bits.
func tooShort(key ssh.PublicKey) error {
	crypto, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return nil
	}
	if key, ok := crypto.CryptoPublicKey().(*rsa.PublicKey); ok && key.N.BitLen() < 2048 {
		return fmt.Errorf("the RSA key has %d bits, and fewer than 2048 can be forged", key.N.BitLen())
	}
	return nil
}

// options reads the options of a line, whose names ssh-keygen takes in any case and whose values it wants quoted.
func (l *signerLine) options(s string) error {
	seen := map[string]bool{}
	for s != "" {
		end := optionEnd(s)
		name, value, hasValue := strings.Cut(s[:end], "=")
		s = strings.TrimPrefix(s[end:], ",")
		name = strings.ToLower(name)
		if seen[name] {
			return fmt.Errorf("the option %s comes twice", name)
		}
		seen[name] = true
		if name == "cert-authority" {
			return fmt.Errorf("cert-authority is not supported: list the keys themselves")
		}
		if name != "namespaces" && name != "valid-after" && name != "valid-before" {
			return fmt.Errorf("there is no option %q: there are namespaces, valid-after and valid-before", name)
		}
		if !hasValue || len(value) < 3 || value[0] != '"' || value[len(value)-1] != '"' {
			return fmt.Errorf("the option %s needs a value in double quotes, as in %s=\"...\"", name, name)
		}
		if err := l.option(name, strings.ReplaceAll(value[1:len(value)-1], `\"`, `"`)); err != nil {
			return err
		}
	}
	if !l.after.IsZero() && !l.before.IsZero() && !l.after.Before(l.before) {
		return fmt.Errorf("valid-before is not after valid-after: the key is never good")
	}
	return nil
}

func (l *signerLine) option(name, value string) (err error) {
	switch name {
	case "namespaces":
		l.namespaces = value
	case "valid-after":
		l.after, err = signerTime(value)
	case "valid-before":
		l.before, err = signerTime(value)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// optionEnd is where the first option ends: at a comma outside of quotes.
func optionEnd(s string) int {
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '"' && (i == 0 || s[i-1] != '\\'):
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return i
		}
	}
	return len(s)
}

// signerTime reads YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS: UTC with a Z at the end, else by the clock on the wall here.
func signerTime(s string) (time.Time, error) {
	digits, zulu := strings.CutSuffix(s, "Z")
	zone := time.Local
	if zulu {
		zone = time.UTC
	}
	const layout = "20060102150405"
	if n := len(digits); n == 8 || n == 12 || n == 14 {
		if t, err := time.ParseInLocation(layout[:n], digits, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with a Z behind it for UTC", s)
}

// allows says whether the key may sign in a namespace.
func (l signerLine) allows(namespace string) bool {
	if l.namespaces == "" {
		return true
	}
	allowed := false
	for pattern := range strings.SplitSeq(l.namespaces, ",") {
		pattern, negated := strings.CutPrefix(pattern, "!")
		if !sshPattern(pattern, namespace) {
			continue
		}
		if negated {
			return false
		}
		allowed = true
	}
	return allowed
}

// sshPattern matches as ssh_config(5) says: "*" is any characters, "?" is one, and nothing else is special.
func sshPattern(pattern, s string) bool {
	prepare := strings.NewReplacer(`\`, `\\`, "[", `\[`, "/", "\x00") // path.Match takes no slash for a "*"
	ok, err := path.Match(prepare.Replace(pattern), strings.ReplaceAll(s, "/", "\x00"))
	return ok && err == nil
}
