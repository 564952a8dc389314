package policy_test

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/policy"
)

// blobs is what a store keeps.
type blobs map[[32]byte][]byte

func (b blobs) put(data []byte) [32]byte {
	digest := sha256.Sum256(data)
	b[digest] = data
	return digest
}

func (b blobs) get(digest [32]byte) ([]byte, error) {
	if data, ok := b[digest]; ok {
		return data, nil
	}
	return nil, errors.New("no such blob")
}

func TestReadManifestIsTheInverseOfBlobs(t *testing.T) {
	b := bundle("policy.yaml", "version: 1\ninclude: [teams/*.yaml]\n", "teams/a.yaml", "allow: []\n")
	b.Revision, b.Dirty = strings.Repeat("a", 40), true
	p, err := policy.Compile(b)
	if err != nil {
		t.Fatal(err)
	}
	stored := blobs{}
	for _, data := range p.Blobs() {
		stored.put(data)
	}
	back, err := policy.ReadManifest(p.Ref(), stored.get)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(texts(b), texts(back)); diff != "" {
		t.Error(diff)
	}
	again, err := policy.Compile(back)
	if err != nil {
		t.Fatal(err)
	}
	if again.Ref() != p.Ref() {
		t.Errorf("got %+v, want %+v", again.Ref(), p.Ref())
	}
}

func TestReadManifestRefuses(t *testing.T) {
	stored := blobs{}
	missing := strings.Repeat("00", 32)
	lying := sha256.Sum256([]byte("what was in force"))
	stored[lying] = []byte("something else")
	for _, tt := range []struct {
		name     string
		manifest string
		want     string
	}{
		{"a blob that is missing", missing + "  policy.yaml\n", "no such blob"},
		{"a blob with other bytes", hexOf(lying[:]) + "  policy.yaml\n", "the bytes have another digest"},
		{"a line without a digest", "policy.yaml\n", "no line of a manifest"},
		{"a digest that is too short", "00  policy.yaml\n", "no line of a manifest"},
		{"a file that is none of a policy", missing + "  x.sh\n", "no line of a manifest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ref := ca.PolicyRef{Digest: stored.put([]byte(tt.manifest))}
			if _, err := policy.ReadManifest(ref, stored.get); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := policy.ReadManifest(ca.PolicyRef{}, stored.get); err == nil {
		t.Error("a manifest that is missing was no obstacle")
	}
}
