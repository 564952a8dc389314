package policy_test

import (
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

func TestAPolicyComesBackFromItsBlobs(t *testing.T) {
	dir := t.TempDir()
	if err := policy.WriteExample(dir, policy.ExampleParams{}); err != nil {
		t.Fatal(err)
	}
	bundle, err := policy.ReadDir(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	want, err := policy.Compile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[[32]byte][]byte{}
	for _, b := range want.Blobs() {
		blobs[sha256.Sum256(b)] = b
	}
	get := func(digest [32]byte) ([]byte, error) {
		if b, ok := blobs[digest]; ok {
			return b, nil
		}
		return nil, errors.New("no such blob")
	}
	again, err := policy.ReadManifest(want.Ref(), get)
	if err != nil {
		t.Fatal(err)
	}
	got, err := policy.Compile(again)
	if err != nil {
		t.Fatal(err)
	}
	if got.Ref() != want.Ref() {
		t.Errorf("the policy from the blobs is %x, want %x", got.Ref().Digest, want.Ref().Digest)
	}
	if _, err := policy.ReadManifest(ca.PolicyRef{Digest: [32]byte{1}}, get); err == nil {
		t.Error("a policy without blobs came back")
	}
	for digest := range blobs {
		blobs[digest] = []byte("doctored")
	}
	if _, err := policy.ReadManifest(want.Ref(), get); err == nil {
		t.Error("doctored blobs came back as a policy")
	}
}
