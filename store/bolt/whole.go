package bolt

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"
)

// Whole reads all of a copy: its records, and the hashes of those that were archived, must lead to the root hash that was signed, and
// its blobs be what their names say. What the records say is for package verify.
func (c *Copy) Whole(ctx context.Context) error {
	err := c.s.view(ctx, func(tx *bbolt.Tx, h head) error {
		signed, err := c.s.verifyOwner(tx)
		if err != nil {
			return err
		}
		tree, hashes := compactTree{}, hashReader(tx)
		if err := tx.Bucket(recordsBucket).ForEach(func(k, record []byte) error {
			at := binary.BigEndian.Uint64(k)
			if err := c.s.mayLack(tree.size, at); err != nil {
				return err
			}
			for tree.size < at {
				leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(tree.size))})
				if err != nil {
					return err
				}
				tree.add(leaf[0])
			}
			tree.add(tlog.RecordHash(record))
			return context.Cause(ctx)
		}); err != nil {
			return err
		}
		if root := tree.root(); tree.size != signed.Size || root != signed.Root {
			return fmt.Errorf("its %d records have the root hash %v, but %d with %v were signed", tree.size, root, signed.Size, signed.Root)
		}
		return tx.Bucket(blobsBucket).ForEach(func(k, blob []byte) error {
			if digest := audit.Digest(blob); string(digest[:]) != string(k) {
				return fmt.Errorf("the blob %x is not what its name says: it was changed or damaged", k)
			}
			return context.Cause(ctx)
		})
	})
	if err != nil {
		return fmt.Errorf("read copy of a log %s: %w", c.s.path, err)
	}
	return nil
}

// compactTree computes an RFC 6962 root hash from record hashes in order, with one hash for each complete subtree, the largest first.
type compactTree struct {
	size     uint64
	subtrees []tlog.Hash
}

func (t *compactTree) add(h tlog.Hash) {
	for n := t.size; n&1 == 1; n >>= 1 { // each 1 at the end of the size is a subtree as large as the one that h has become
		last := len(t.subtrees) - 1
		h = tlog.NodeHash(t.subtrees[last], h)
		t.subtrees = t.subtrees[:last]
	}
	t.subtrees = append(t.subtrees, h)
	t.size++
}

func (t *compactTree) root() (h tlog.Hash) {
	for i := len(t.subtrees) - 1; i >= 0; i-- {
		if h == (tlog.Hash{}) {
			h = t.subtrees[i]
		} else {
			h = tlog.NodeHash(t.subtrees[i], h)
		}
	}
	return h
}
