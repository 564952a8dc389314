package client

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
)

// CAKey is a user CA key of the daemon.
type CAKey struct {
	// Authority is a name of lower-case letters, digits, '.', '_' and '-'.
	Authority string
	Key       ssh.PublicKey
}

// authorityForm is what a name of an authority may be: it ends up in files that sshd reads.
var authorityForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CAKeys reads the keys of a discovery. One that cannot be used spoils them all: a line that sshd cannot read disables every
// key after it.
func CAKeys(discovered *pb.DiscoverResponse) ([]CAKey, error) {
	var keys []CAKey
	for _, k := range discovered.GetUserCaKeys() {
		key, err := ssh.ParsePublicKey(k.GetPublicKey())
		if err != nil {
			return nil, fmt.Errorf("read the key of the authority %q: %w", k.GetAuthority(), err)
		}
		if _, isCertificate := key.(*ssh.Certificate); isCertificate || !bytes.Equal(key.Marshal(), k.GetPublicKey()) {
			return nil, fmt.Errorf("read the key of the authority %q: it is not a plain public key", k.GetAuthority())
		}
		if !authorityForm.MatchString(k.GetAuthority()) {
			return nil, fmt.Errorf("%q is not the name of an authority", k.GetAuthority())
		}
		keys = append(keys, CAKey{k.GetAuthority(), key})
	}
	if len(keys) == 0 {
		return nil, errors.New("the CA names no user CA key")
	}
	return keys, nil
}
