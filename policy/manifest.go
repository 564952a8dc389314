package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
)

// ReadManifest puts together the bundle of a policy from its blobs (see Policy.Blobs), each held against its digest: what comes
// back compiles to the policy that ref names.
func ReadManifest(ref ca.PolicyRef, blob func(digest [32]byte) ([]byte, error)) (*Bundle, error) {
	read := func(what string, digest [32]byte) ([]byte, error) {
		data, err := blob(digest)
		if err == nil && sha256.Sum256(data) != digest {
			err = fmt.Errorf("it is not what its digest names")
		}
		if err != nil {
			return nil, fmt.Errorf("read policy %x: %s: %w", ref.Digest[:6], what, err)
		}
		return data, nil
	}
	manifest, err := read("manifest", ref.Digest)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Files: map[string][]byte{}, Source: "the log", Revision: ref.Revision, Dirty: ref.Dirty}
	for line := range strings.Lines(string(manifest)) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		digest, err := hex.DecodeString(sum)
		if !ok || err != nil || len(digest) != sha256.Size {
			return nil, fmt.Errorf("read policy %x: the manifest has the line %q", ref.Digest[:6], line)
		}
		if b.Files[name], err = read(name, [32]byte(digest)); err != nil {
			return nil, err
		}
	}
	return b, nil
}
