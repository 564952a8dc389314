package bolt

import (
	"os"
	"time"
)

// Commit is a commit that wrote records, or one that failed.
type Commit struct {
	// Records is how many it made durable; 0 if it failed.
	Records int
	// Took is how long it lasted, from its beginning to its outcome.
	Took time.Duration
	// Disk is how long of that the file was written and synced, which bbolt does twice; that of the one before if it failed.
	Disk time.Duration
	// Err is why it failed, nil if it did not.
	Err error
}

// Stats is how a log fares.
type Stats struct {
	// Records is how many it has, Epoch the one that it is in, Time that of the newest record, which is that of the newest checkpoint.
	Records uint64
	Epoch   uint32
	Time    time.Time
	// Head is how many records the head beside the log covers.
	Head uint64
	// Queue is how many entries wait for a commit.
	Queue int
	// Bytes is the size of the file, Free what its disk has left for it; negative if that cannot be told.
	Bytes int64
	Free  int64
	// Dead says that nothing can be recorded any more.
	Dead bool
}

// Stats returns how the log fares now. It holds up no commit.
func (s *Store) Stats() Stats {
	end := s.end()
	stats := Stats{
		Records: end.size, Epoch: end.epoch, Time: end.time, Head: s.headSize.Load(), Queue: len(s.queue),
		Bytes: -1, Free: -1, Dead: s.isDead(),
	}
	if info, err := os.Stat(s.path); err == nil {
		stats.Bytes = info.Size()
	}
	if free, ok := freeSpace(s.path); ok {
		stats.Free = free
	}
	return stats
}
