package cli

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/client"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/mod/sumdb/tlog"
)

// remoteBlobs reads what records cite from a daemon, once.
type remoteBlobs struct {
	ctx  context.Context //nolint:containedctx // the life of one verification, whose functions take none
	conn *client.Client
	who  client.SignIn

	mu    sync.Mutex // guards what follows, and who
	known map[[32]byte][]byte
	// leaves are the hashes of archived records that were sent and not asked for yet.
	leaves map[uint64]tlog.Hash
}

func newRemoteBlobs(ctx context.Context, conn *client.Client, who client.SignIn) *remoteBlobs {
	return &remoteBlobs{ctx: ctx, conn: conn, who: who, known: map[[32]byte][]byte{}, leaves: map[uint64]tlog.Hash{}}
}

func (b *remoteBlobs) get(digest [32]byte) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if blob, ok := b.known[digest]; ok {
		return blob, nil
	}
	blob, err := b.conn.GetBlob(b.ctx, b.who, digest)
	if ca.KindOf(err) == ca.NotFound {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	b.known[digest] = blob
	return blob, nil
}

// keep takes a snapshot that came with a record.
func (b *remoteBlobs) keep(snapshot []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known[audit.Digest(snapshot)] = bytes.Clone(snapshot)
}

func (b *remoteBlobs) signIn() client.SignIn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.who
}

// refresh gets another ID token of the sign-in.
func (b *remoteBlobs) refresh(a *app) error {
	who, _, err := a.signedIn(b.ctx)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.who = who
	return nil
}

// leaf returns the hash of a record that was archived.
func (b *remoteBlobs) leaf(index uint64) (tlog.Hash, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.leaves[index]
	if !ok {
		return h, errors.New("the daemon did not send it")
	}
	delete(b.leaves, index)
	return h, nil
}

// keepLeaves takes hashes of records from one on, and returns how many there are.
func (b *remoteBlobs) keepLeaves(from uint64, hashes []byte) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := uint64(0)
	for ; len(hashes) >= tlog.HashSize; hashes = hashes[tlog.HashSize:] {
		b.leaves[from+n] = tlog.Hash(hashes[:tlog.HashSize])
		n++
	}
	return n
}

// records are the first n of the daemon's log, nil for one that was archived. If the ID token expires meanwhile, it goes on with the
// next.
func (b *remoteBlobs) records(a *app, n uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		next, stop := uint64(0), errors.New("enough")
		for next < n {
			progress := false
			err := b.conn.Follow(b.ctx, b.signIn(), &pb.FollowRecordsRequest{From: next, Hashes: true}, func(r *pb.FollowRecordsResponse) error {
				progress = true
				for missing := b.keepLeaves(next, r.GetHashes()); missing > 0; missing-- {
					if next++; !yield(nil, nil) || next == n {
						return stop
					}
				}
				e := r.GetEntry()
				if e == nil {
					return nil
				}
				if len(e.GetSnapshot()) > 0 {
					b.keep(e.GetSnapshot())
				}
				if next++; !yield(e.GetRecord(), nil) || next == n {
					return stop
				}
				return nil
			})
			if errors.Is(err, stop) {
				return
			}
			if progress && ca.KindOf(err) == ca.Unauthenticated {
				if err = b.refresh(a); err == nil {
					continue
				}
			}
			if err == nil {
				err = errors.New("the daemon ended the records early")
			}
			yield(nil, err)
			return
		}
	}
}
