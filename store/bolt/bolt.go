// Package bolt keeps the log in one bbolt file: for one daemon on one machine.
//
// What is in the file:
//
//	records       index, 8 bytes big-endian      the exact bytes of the record
//	hashes        tlog hash index, likewise      32 bytes, RFC 6962
//	facts         key of the fact                the value, of facts that never expire
//	facts_expiry  expiry in Unix seconds and     the value, of facts that do
//	              index, 8 bytes each, and key
//	              of the fact
//	index         key of the fact                the value: those facts whose keys only ever grow (audit.Index)
//	blobs         SHA-256                        the blob
//	meta          "format", "checkpoint"         1; the newest signed checkpoint
//	              "archive"                      of an archive only: the index before which records are in earlier ones
//	              "facts"                        version of the facts (audit.FactsVersion); 1 if it is missing
//
// Beside it lies the head, see head.go. A commit is one transaction of all of these. bbolt writes the pages of a transaction, syncs, writes one of two meta pages, and
// syncs again; only then is a record durable, is it shown to a reader, and does Append return.
package bolt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"go.etcd.io/bbolt"
)

const (
	// lockTimeout is how long Open waits for another daemon to let go of the file.
	lockTimeout = time.Second
	// queueLength is how many entries may wait for a commit. Those beyond wait to be queued.
	queueLength = 1024
	// defaultMaxBackward is how far the clock may be behind the newest record.
	defaultMaxBackward = 5 * time.Minute
	// maxForward is how far the clock may run ahead of Config.Uptime.
	maxForward = 24 * time.Hour
	pageSize   = 4096
	// fillPercent leaves no room in pages of buckets that are only ever added to at the end.
	fillPercent = 1
)

var (
	recordsBucket  = []byte("records")
	hashesBucket   = []byte("hashes")
	factsBucket    = []byte("facts")
	expiringBucket = []byte("facts_expiry")
	indexBucket    = []byte("index")
	blobsBucket    = []byte("blobs")
	metaBucket     = []byte("meta")
	buckets        = [][]byte{recordsBucket, hashesBucket, factsBucket, expiringBucket, indexBucket, blobsBucket, metaBucket}

	formatKey     = []byte("format")
	checkpointKey = []byte("checkpoint")
	factsKey      = []byte("facts")
	archiveKey    = []byte("archive")
)

// Config is what a log needs.
type Config struct {
	// LogKey signs the checkpoints; its id is that of the log. Required.
	LogKey *audit.LogKey
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// MaxBackward is how far the clock may be behind the newest record before the log refuses to go on. Default five minutes.
	MaxBackward time.Duration
	// Uptime grows with time and cannot be set, from any beginning. If it is given, the log refuses to go on while the clock is
	// more than a day ahead of where it should be since Open: a record of a wrong time would refuse all others until then.
	Uptime func() time.Duration
	// Logger is told of what fails beside the commits. Default: nobody is.
	Logger *slog.Logger
	// UnderWay says how many callers are about to append, or wait for it. If they are many, a commit lets some of them join it: it costs
	// as much as several records. Default: nobody says, and no commit waits.
	UnderWay func() int
	// Committed is told of each commit once its callers have their answers. The next one waits for it, so it MUST NOT wait for
	// anything. Default: nobody is.
	Committed func(Commit)
}

func (c *Config) check() error {
	if c.LogKey == nil {
		return errors.New("no log key given")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxBackward == 0 {
		c.MaxBackward = defaultMaxBackward
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.UnderWay == nil {
		c.UnderWay = func() int { return 0 }
	}
	if c.Committed == nil {
		c.Committed = func(Commit) {}
	}
	return nil
}

// Store is an open log. Its methods are safe for concurrent use.
type Store struct {
	path string
	cfg  Config
	// id and verifier are those of the log that the file must hold: its name, and its public key.
	id, verifier string
	db           *bbolt.DB
	// The clock should be at opened once Uptime is at uptime.
	opened time.Time
	uptime time.Duration
	file   os.FileInfo // of the file that is open
	handle *os.File    // that bbolt writes to
	mapped int         // see mapSize
	// archived is the index before which records may be missing, because they were archived; 0 for none. It is that of the file.
	archived uint64

	queue    chan *call
	stop     chan struct{} // closed by Close
	done     chan struct{} // closed when the committer has ended
	headDone chan struct{} // closed when the keeper of the head has ended
	dead     chan struct{} // closed when the outcome of a commit is in doubt
	kill     sync.Once     // closes dead
	close    func() error
	crowded  atomic.Bool   // the newest batch was one of many callers
	copying  sync.Mutex    // held while a backup is taken
	headSize atomic.Uint64 // how many records the head beside the log covers

	// index is that of the newest records. It belongs to the committer, and is nil if it has to be read from the file.
	index *audit.Index
	// wrote is how long the newest commit took to write and sync the file. It belongs to the committer too.
	wrote time.Duration
	// zeros are written ahead of the tree, up to reserved. Both belong to the committer.
	zeros    []byte
	reserved int64

	// mu guards what is known to be durable.
	mu      sync.Mutex
	durable head
	recent  *recent       // nil in a copy
	changed chan struct{} // closed and replaced when durable changes, or the log dies

	// expiring is of what is durable too.
	expiring expiring
}

// head is the end of the log.
type head struct {
	size  uint64
	time  time.Time
	epoch uint32
	// tx is the number of the transaction that wrote it.
	tx int
	// checkpoint is the signed one of this end.
	checkpoint []byte
}

var _ store.Store = (*Store)(nil)

// Create makes a new log, whose first record is the genesis, at a path where nothing may be. Close it when done.
func Create(path string, cfg Config) (*Store, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	s, err := open(path, cfg, func(name string, flag int, mode os.FileMode) (*os.File, error) {
		return os.OpenFile(name, flag|os.O_CREATE|os.O_EXCL, mode)
	})
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create log: %s exists: a log is never made over another", path)
	}
	if err != nil {
		return nil, fmt.Errorf("create log %s: %w", path, err)
	}
	s.watchClock()
	if err := cmp.Or(s.begin(), syncDir(filepath.Dir(path)), s.writeHead()); err != nil {
		return nil, errors.Join(fmt.Errorf("create log %s: %w", path, err), s.db.Close(), os.Remove(path))
	}
	s.start()
	return s, nil
}

// begin writes the buckets and the genesis.
func (s *Store) begin() error {
	if err := s.createBuckets(); err != nil {
		return err
	}
	key := s.cfg.LogKey
	genesis := newCall(context.Background(), store.Entry{Build: func(slot store.Slot) ([]byte, error) {
		return slot.Marshal(&audit.Event{Event: &pb.Record_Genesis{Genesis: &pb.Genesis{
			LogId: key.ID(), LogPublicKey: key.Verifier(), Format: audit.Format,
		}}})
	}})
	s.commit([]*call{genesis})
	return (<-genesis.result).err
}

func (s *Store) createBuckets() error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		if err := tx.Bucket(metaBucket).Put(factsKey, []byte{audit.FactsVersion}); err != nil {
			return err
		}
		return tx.Bucket(metaBucket).Put(formatKey, []byte{audit.Format})
	})
}

// Open opens a log that exists. It refuses a log of another key, one that a newer program wrote, one that another daemon has
// open, one whose end does not fit its signed checkpoint, and one that is older than its head. If the outcome of the last commit was
// in doubt it first replaces the file by a verified copy of itself.
func Open(path string, cfg Config) (*Store, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	path = realPath(path)
	if err := recoverSuspect(path, cfg); err != nil {
		return nil, fmt.Errorf("open log %s, whose last write is in doubt: %w", path, err)
	}
	s, err := openExisting(path, cfg)
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	if err := cmp.Or(guard(s.verifyHead), removeLeft(path+backupSuffix)); err != nil {
		return nil, errors.Join(fmt.Errorf("open log %s: %w", path, err), s.db.Close())
	}
	if s, err = s.migrated(); err != nil {
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	s.start()
	return s, nil
}

// openExisting opens the file and verifies its end. Nothing runs yet.
func openExisting(path string, cfg Config) (*Store, error) {
	s, err := open(path, cfg, func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag&^os.O_CREATE, mode)
		if err != nil {
			return nil, err
		}
		if err := checkPages(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: `hallpassd init` makes a log, opening one never does", err)
	}
	if err != nil {
		return nil, err
	}
	if err := checkTree(path); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	if err := guard(s.verifyEnd); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	s.watchClock()
	return s, nil
}

func open(path string, cfg Config, openFile func(string, int, os.FileMode) (*os.File, error)) (*Store, error) {
	s := &Store{
		path: path,
		cfg:  cfg,
		id:   cfg.LogKey.ID(), verifier: cfg.LogKey.Verifier(),
		queue:    make(chan *call, queueLength),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
		headDone: make(chan struct{}),
		dead:     make(chan struct{}),
		changed:  make(chan struct{}),
		recent:   &recent{},
	}
	s.close = sync.OnceValue(s.shut)
	s.mapped = mapSize(path)
	err := guard(func() (err error) {
		s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:      lockTimeout,
			FreelistType: bbolt.FreelistMapType,
			PageSize:     pageSize,
			OpenFile:     s.opener(openFile),

			InitialMmapSize: s.mapped,
			NoStatistics:    true,
		})
		return err
	})
	if err != nil {
		return nil, taken(err)
	}
	return s, nil
}

// opener remembers which file it was that openFile opened. bbolt opens it once more for a backup, and that is a plain reading.
func (s *Store) opener(openFile func(string, int, os.FileMode) (*os.File, error)) func(string, int, os.FileMode) (*os.File, error) {
	return func(name string, flag int, mode os.FileMode) (*os.File, error) {
		if s.file != nil {
			return os.OpenFile(name, os.O_RDONLY, 0)
		}
		f, err := openFile(name, flag, mode)
		if err != nil {
			return nil, err
		}
		if s.file, err = f.Stat(); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		s.handle = f
		return f, nil
	}
}

func (s *Store) start() {
	go s.committer()
	go s.keepHead()
}

// watchClock begins to hold the clock against Uptime.
func (s *Store) watchClock() {
	if s.cfg.Uptime == nil {
		return
	}
	s.opened, s.uptime = s.cfg.Now().UTC().Round(0), s.cfg.Uptime()
	if s.durable.time.After(s.opened) { // the clock is not set yet, as that of a machine which has none of its own
		s.opened = s.durable.time
	}
}

// Close ends the committer, after the batch under way, and closes the file. Entries still waiting get ErrUnavailable.
func (s *Store) Close() error { return s.close() }

func (s *Store) shut() error {
	close(s.stop)
	<-s.done
	<-s.headDone
	if !s.isDead() { // else there is no saying whether this is the log at the path
		if err := s.writeHead(); err != nil {
			s.cfg.Logger.Warn("the head of the log cannot be written: it lags behind", "error", err)
		}
	}
	s.release()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close log %s: %w", s.path, err)
	}
	return nil
}

// Dead implements store.Store.
func (s *Store) Dead() <-chan struct{} { return s.dead }

// syncDir makes a file's name durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
