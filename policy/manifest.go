package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
)

// manifest lists files as "<SHA-256 in hex>  <path>\n", in the order of paths.
func manifest(files map[string][]byte, sorted []string) []byte {
	var b strings.Builder
	for _, name := range sorted {
		digest := sha256.Sum256(files[name])
		fmt.Fprintf(&b, "%s  %s\n", hex.EncodeToString(digest[:]), name)
	}
	return []byte(b.String())
}

// ReadManifest gets back the bundle of a policy that was in force, from blobs that are looked up by SHA-256. It is the
// inverse of Blobs, and trusts no blob: each must have the digest it was asked for by.
func ReadManifest(ref ca.PolicyRef, blob func(digest [32]byte) ([]byte, error)) (*Bundle, error) {
	get := func(digest [32]byte, what string) ([]byte, error) {
		data, err := blob(digest)
		if err != nil {
			return nil, fmt.Errorf("read %s of policy %x: %w", what, ref.Digest[:6], err)
		}
		if sha256.Sum256(data) != digest {
			return nil, fmt.Errorf("read %s of policy %x: the bytes have another digest", what, ref.Digest[:6])
		}
		return data, nil
	}
	list, err := get(ref.Digest, "the manifest")
	if err != nil {
		return nil, err
	}
	b := &Bundle{
		Files: map[string][]byte{}, Source: fmt.Sprintf("policy %x", ref.Digest[:6]), Revision: ref.Revision, Dirty: ref.Dirty,
	}
	total := 0
	for line := range strings.Lines(string(list)) {
		digestText, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		digest, err := hex.DecodeString(digestText)
		if !ok || err != nil || len(digest) != sha256.Size || path.Ext(name) != ".yaml" {
			return nil, fmt.Errorf("read the manifest of policy %x: %.100q is no line of a manifest", ref.Digest[:6], line)
		}
		data, err := get([32]byte(digest), name)
		if err != nil {
			return nil, err
		}
		if err := b.admit(name, int64(len(data)), &total); err != nil {
			return nil, fmt.Errorf("read policy %x: %w", ref.Digest[:6], err)
		}
		b.Files[name] = data
	}
	return b, nil
}
