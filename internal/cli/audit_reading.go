package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
)

// reading is how far somebody read a log. An index alone does not say it: a log that was restored from a backup has other records
// at the indexes of those that it lost, in a later epoch. No two records have both in common.
type reading struct {
	// next is the index of the record that must come.
	next uint64
	// epochs are those of the records that were read, oldest first; none before the first.
	epochs []epoch
}

// epoch is one of a log, or of what was read of it.
type epoch struct {
	number uint32
	// from is the index of its first record, or the first that was read.
	from uint64
}

// last is the epoch of the last record that was read.
func (r reading) last() uint32 { return r.epochs[len(r.epochs)-1].number }

// and is how far the log is read with one more record.
func (r reading) and(index uint64, number uint32) reading {
	if len(r.epochs) == 0 || r.last() != number {
		r.epochs = append(slices.Clip(r.epochs), epoch{number, index})
	}
	r.next = index + 1
	return r
}

// parting is where a log that was restored parts from what was read of it.
type parting struct {
	// at is how far the log, as it is now, was read.
	at reading
	// restore is the newest one.
	restore audit.Restore
}

// parted asks the CA whether its log still has all that was read. It returns nil if so, also if the log was restored meanwhile.
func (r reading) parted(ctx context.Context, conn *client.Client, who client.SignIn) (*parting, error) {
	answer, err := conn.GetCheckpoint(ctx, who)
	if err != nil {
		return nil, err
	}
	now, err := audit.OpenCheckpoint([]byte(answer.GetCheckpoint()), who.Log.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("the CA gave a checkpoint of another log than the one known since login: %w", err)
	}
	all, err := audit.Between(audit.Checkpoint{LogID: now.LogID}, now, answer.GetRestores(), who.Log.PublicKey)
	if err != nil {
		return nil, err
	}
	epochs := []epoch{{0, 0}}
	for _, restore := range all.Restores {
		epochs = append(epochs, epoch{restore.Epoch, restore.Base.Size})
	}
	at := r.partsFrom(epochs, now.Size)
	if at == r.next {
		return nil, nil
	}
	if now.Epoch <= r.last() {
		return nil, &failure{exit: exitFailed,
			err: fmt.Errorf("the log of the CA has %d records, in epoch %d, and not record %d of epoch %d, which was read; no restore tells of that: it was rolled back",
				now.Size, now.Epoch, r.next-1, r.last()),
			hint: "if it was read from this CA, tell those who audit it"}
	}
	epochs = slices.DeleteFunc(epochs, func(e epoch) bool { return e.from >= at })
	return &parting{at: reading{next: at, epochs: epochs}, restore: all.Restores[len(all.Restores)-1]}, nil
}

// partsFrom returns the index from which on a log of these epochs and this size is another than the one that was read: next if it is
// none. A backup may be of an earlier epoch than the last that was read, and have more or fewer records than that began with.
func (r reading) partsFrom(log []epoch, size uint64) uint64 {
	// An epoch begins but once, so that before the last one which both have there is no difference.
	common, left := r.epochs[0].number, r.epochs[0].from
	for _, e := range r.epochs {
		if slices.ContainsFunc(log, func(l epoch) bool { return l.number == e.number }) {
			common, left = e.number, after(e.number, r.epochs, r.next)
		}
	}
	return min(left, after(common, log, size))
}

// after is where an epoch ended: at the beginning of the next, or at the end.
func after(number uint32, epochs []epoch, end uint64) uint64 {
	for _, e := range epochs {
		if e.number > number {
			return e.from
		}
	}
	return end
}
