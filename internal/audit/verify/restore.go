package verify

import (
	"fmt"
	"strings"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/mod/sumdb/note"
)

// restored checks the record of a restore: the log key says in it, as a signed note, that the epoch goes on from exactly the records
// before. The first three lines are "hallpass restore v1", the new origin, and "from" with origin, size and root hash of the base.
func (w *walk) restored(epoch uint32, r *pb.Restored) error {
	v, err := note.NewVerifier(w.publicKey)
	if err != nil {
		return fmt.Errorf("read public key of the log: %w", err)
	}
	n, err := note.Open([]byte(r.GetStatement()), note.VerifierList(v))
	if err != nil {
		return fmt.Errorf("what it says of a restore is not signed by the log: %w", err)
	}
	want := fmt.Sprintf("hallpass restore v1\n%s/%d\nfrom %s/%d %d %s\n", w.checkpoint.LogID, epoch, w.checkpoint.LogID, w.epoch, w.tree.size, w.tree.root())
	switch {
	case epoch <= w.epoch:
		return fmt.Errorf("it begins epoch %d in epoch %d", epoch, w.epoch)
	case !strings.HasPrefix(n.Text, want) || strings.Count(n.Text, "\n") != 5:
		return fmt.Errorf("it tells of a restore from another state than that of the %d records before it", w.tree.size)
	}
	return nil
}
