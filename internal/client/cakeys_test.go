package client_test

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/client"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
)

func TestCAKeysThatWouldSpoilAFileAreRefused(t *testing.T) {
	signer := newSigner(t)
	key := signer.PublicKey().Marshal()
	cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: ssh.UserCert, Nonce: make([]byte, 32)}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		authority string
		key       []byte
		want      string // empty: taken
	}{
		{"a key with a name", "prod", key, ""},
		{"a name of two lines", "prod\nssh-ed25519", key, "not the name"},
		{"no name", "", key, "not the name"},
		{"a certificate", "prod", cert.Marshal(), "not a plain public key"},
		{"bytes after the key", "prod", append(key[:len(key):len(key)], 0), "read the key"},
		{"no key", "prod", nil, "read the key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			good := &pb.UserCAKey{Authority: "default", PublicKey: key}
			answer := &pb.DiscoverResponse{UserCaKeys: []*pb.UserCAKey{good, {Authority: tt.authority, PublicKey: tt.key}}}
			keys, err := client.CAKeys(answer)
			if tt.want == "" {
				if err != nil || len(keys) != 2 {
					t.Errorf("got %d keys, %v", len(keys), err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	if _, err := client.CAKeys(&pb.DiscoverResponse{}); err == nil {
		t.Error("a CA without keys was taken")
	}
}
