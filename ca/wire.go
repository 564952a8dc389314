package ca

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// reader reads the data types of RFC 4251 section 5. It is the second reader of what golang.org/x/crypto/ssh wrote, and the
// first of what callers send; so it shares no code with that package. After a short read it is bad and returns zeros.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) string() []byte {
	n := r.uint32()
	if uint64(n) > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return nil
	}
	return r.take(int(n))
}

// end says whether everything was read, and nothing was missing.
func (r *reader) end() bool { return !r.bad && len(r.rest) == 0 }

// option is a critical option or an extension as it is on the wire.
type option struct {
	name string
	// data is the value with its own length removed; hasData tells a flag from an empty value.
	data    string
	hasData bool
}

// parsed is a to-be-signed certificate as PROTOCOL.certkeys lays it out.
type parsed struct {
	certType    string
	nonce       []byte
	key         []byte // the subject key in SSH wire format, rebuilt from its fields
	serial      uint64
	kind        uint32
	keyID       string
	principals  []string
	validAfter  uint64
	validBefore uint64
	critical    []option
	extensions  []option
	reserved    []byte
	authority   []byte
}

// plainTypes maps the types of certificates that we make to the type of the key inside and the number of its fields.
var plainTypes = map[string]struct {
	key    string
	fields int
}{
	"ssh-ed25519-cert-v01@openssh.com":            {"ssh-ed25519", 1},
	"sk-ssh-ed25519-cert-v01@openssh.com":         {"sk-ssh-ed25519@openssh.com", 2},
	"ecdsa-sha2-nistp256-cert-v01@openssh.com":    {"ecdsa-sha2-nistp256", 2},
	"ecdsa-sha2-nistp384-cert-v01@openssh.com":    {"ecdsa-sha2-nistp384", 2},
	"ecdsa-sha2-nistp521-cert-v01@openssh.com":    {"ecdsa-sha2-nistp521", 2},
	"sk-ecdsa-sha2-nistp256-cert-v01@openssh.com": {"sk-ecdsa-sha2-nistp256@openssh.com", 3},
	"ssh-rsa-cert-v01@openssh.com":                {"ssh-rsa", 2},
}

// usualKey has room for the subject keys that most people have. Others grow.
const usualKey = 64

// parseCertificate reads to-be-signed bytes: everything up to and with the signature key, and nothing after it.
func parseCertificate(toBeSigned []byte) (*parsed, error) {
	r := reader{rest: toBeSigned}
	p := &parsed{certType: string(r.string()), nonce: r.string(), key: make([]byte, 0, usualKey)}
	plain, ok := plainTypes[p.certType]
	if !ok {
		return nil, fmt.Errorf("read certificate: type %q is none that we make", p.certType)
	}
	p.key = appendString(p.key, []byte(plain.key))
	for range plain.fields {
		p.key = appendString(p.key, r.string())
	}
	p.serial, p.kind, p.keyID = r.uint64(), r.uint32(), string(r.string())
	names := reader{rest: r.string()}
	for len(names.rest) > 0 {
		p.principals = append(p.principals, string(names.string()))
	}
	p.validAfter, p.validBefore = r.uint64(), r.uint64()
	critical, extensions := r.string(), r.string()
	p.reserved, p.authority = r.string(), r.string()
	if !r.end() || names.bad {
		return nil, errors.New("read certificate: it is cut short, or something follows its CA key")
	}
	var err error
	if p.critical, err = parseOptions(critical); err != nil {
		return nil, fmt.Errorf("read critical options: %w", err)
	}
	if p.extensions, err = parseOptions(extensions); err != nil {
		return nil, fmt.Errorf("read extensions: %w", err)
	}
	return p, nil
}

// ReadToBeSigned returns two fields of to-be-signed bytes, all of which it reads: the serial, and the CA key in SSH wire format.
func ReadToBeSigned(toBeSigned []byte) (serial uint64, authority []byte, err error) {
	p, err := parseCertificate(toBeSigned)
	if err != nil {
		return 0, nil, err
	}
	return p.serial, p.authority, nil
}

func parseOptions(b []byte) ([]option, error) {
	var options []option
	r := reader{rest: b}
	for len(r.rest) > 0 {
		o := option{name: string(r.string())}
		data := reader{rest: r.string()}
		if r.bad {
			return nil, errors.New("cut short")
		}
		if len(data.rest) > 0 {
			o.data, o.hasData = string(data.string()), true
			if !data.end() {
				return nil, fmt.Errorf("the data of %q is not one string", o.name)
			}
		}
		options = append(options, o)
	}
	return options, nil
}

func appendString(b, s []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
