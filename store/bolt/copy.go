package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/mod/sumdb/tlog"
)

// Copy is a copy of a log, on whatever machine, that is only read. Its methods are safe for concurrent use.
type Copy struct {
	s *Store
	// facts is the version of its facts, which only this program's own can be read of.
	facts int
}

var _ store.Reader = (*Copy)(nil)

// OpenCopy opens a copy of a log by its public key, in the format of signed notes, or by the one in its genesis if that is empty:
// then the copy vouches for itself, which proves nothing. It refuses a file whose end does not fit its signed checkpoint, as Open
// does; what the records say is for package verify. It takes no lock that a daemon would wait for longer than a moment, but a
// file that a daemon has open cannot be opened.
func OpenCopy(path, publicKey string) (*Copy, error) {
	c, err := openCopy(path, publicKey)
	if err != nil {
		return nil, fmt.Errorf("open copy of a log %s: %w", path, err)
	}
	return c, nil
}

func openCopy(path, publicKey string) (*Copy, error) {
	s := &Store{path: path, done: make(chan struct{}), dead: make(chan struct{}), changed: make(chan struct{})}
	var err error
	if s.db, err = openReadOnly(path); err != nil {
		return nil, err
	}
	if err := guard(func() error { return s.verifyCopy(publicKey) }); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	version, err := factsVersion(s.db)
	if err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	return &Copy{s, version}, nil
}

// openReadOnly opens a bbolt file that no daemon has open, and checks its pages. It makes none where there is none.
func openReadOnly(path string) (db *bbolt.DB, err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() { // a pipe would never be open
		return nil, errors.New("it is no regular file")
	}
	err = guard(func() (err error) {
		db, err = bbolt.Open(path, 0, &bbolt.Options{
			ReadOnly: true, Timeout: lockTimeout, PageSize: pageSize, NoStatistics: true,
			OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
				f, err := os.OpenFile(name, flag&^os.O_CREATE, mode)
				if err != nil {
					return nil, err
				}
				if err := checkPages(f); err != nil {
					return nil, errors.Join(err, f.Close())
				}
				return f, nil
			},
		})
		return err
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, errors.New("a daemon has it open: copy the file and open the copy")
	}
	if err != nil {
		return nil, err
	}
	if err := checkTree(path); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// verifyCopy takes the key from the genesis if none is given.
func (s *Store) verifyCopy(publicKey string) error {
	if s.verifier = strings.TrimSpace(publicKey); s.verifier == "" {
		if err := s.db.View(func(tx *bbolt.Tx) error {
			records := tx.Bucket(recordsBucket)
			if records == nil {
				return errors.New("it is no log: it has no records")
			}
			first, err := audit.Parse(records.Get(number(0)))
			s.verifier = first.GetGenesis().GetLogPublicKey()
			return err
		}); err != nil {
			return err
		}
	}
	s.id, _, _ = strings.Cut(s.verifier, "+") // a verifier is name+hash+key
	if err := s.verifyEnd(); err != nil {
		return err
	}
	return s.db.View(func(tx *bbolt.Tx) error {
		// The record that tells of the archive before this one may be beyond the end of an archive, which is read all the same.
		if from, ok := audit.Number(tx.Bucket(metaBucket).Get(archiveKey)); ok {
			s.archived = max(s.archived, from)
		}
		return nil
	})
}

// PublicKey is that of the log, in the format of signed notes.
func (c *Copy) PublicKey() string { return c.s.verifier }

// Size implements store.Reader.
func (c *Copy) Size(ctx context.Context) (uint64, error) { return c.s.Size(ctx) }

// Records implements store.Reader.
func (c *Copy) Records(ctx context.Context, from uint64, n int) ([][]byte, error) {
	return c.s.Records(ctx, from, n)
}

// Blob implements store.Reader.
func (c *Copy) Blob(ctx context.Context, digest [32]byte) ([]byte, error) {
	return c.s.Blob(ctx, digest)
}

// Fact implements store.Reader.
func (c *Copy) Fact(ctx context.Context, key []byte) ([]byte, error) {
	if err := c.knowsFacts(); err != nil {
		return nil, err
	}
	return c.s.Fact(ctx, key)
}

// Facts implements store.Reader.
func (c *Copy) Facts(ctx context.Context, prefix, before []byte, n int) ([]store.KeyValue, error) {
	if err := c.knowsFacts(); err != nil {
		return nil, err
	}
	return c.s.Facts(ctx, prefix, before, n)
}

// knowsFacts refuses to read what another program derived from the records.
func (c *Copy) knowsFacts() error {
	if c.facts == audit.FactsVersion {
		return nil
	}
	return fmt.Errorf("copy of a log %s: its facts have the version %d, this program knows %d: read it with the program that wrote it, "+
		"or let `hallpassd restore` put it into a folder of its own, where they are made anew", c.s.path, c.facts, audit.FactsVersion)
}

// Checkpoint implements store.Reader.
func (c *Copy) Checkpoint(ctx context.Context) ([]byte, error) { return c.s.Checkpoint(ctx) }

// Hashes implements store.Reader.
func (c *Copy) Hashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error) {
	return c.s.Hashes(ctx, indexes)
}

// Close closes the file.
func (c *Copy) Close() error {
	if err := c.s.db.Close(); err != nil {
		return fmt.Errorf("close copy of a log %s: %w", c.s.path, err)
	}
	return nil
}
