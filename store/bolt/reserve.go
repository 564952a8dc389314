package bolt

import "go.etcd.io/bbolt"

// A commit writes some pages behind those in use, where the file has holes, and others in the place of free ones. To fill a hole takes
// the file system's journal, so that a sync waits longer for it; and a journal that is aborted, as by an error of the disk, may forget
// that the page is there although its sync succeeded: 1 in 20 times with ext4 of Linux 6.18, after which the log was damaged. So zeros
// are written ahead of the pages in use, a stretch at a time. Close takes what is left of them away.
const (
	// reserveBytes is how far they go, reserveLeft how much of that is left when more are written.
	reserveBytes = 1 << 20
	reserveLeft  = reserveBytes / 2
)

// reserve writes them. The committer calls it between two commits: nobody else writes there. They become durable with the next
// commit. An error is of no account: that commit meets it too.
func (s *Store) reserve() {
	end, ok := s.inUse()
	if !ok || s.isDead() || end+reserveLeft <= s.reserved {
		return
	}
	if s.zeros == nil {
		s.zeros = make([]byte, reserveBytes)
	}
	from := max(end, s.reserved)
	n, _ := s.handle.WriteAt(s.zeros[:end+reserveBytes-from], from)
	s.reserved = from + int64(n)
}

// release takes away what was reserved and not used. The committer has ended.
func (s *Store) release() {
	if end, ok := s.inUse(); ok && s.reserved > end && !s.isDead() {
		_ = s.handle.Truncate(end) // or they stay
	}
}

// inUse is where the pages in use end.
func (s *Store) inUse() (end int64, ok bool) {
	err := s.db.View(func(tx *bbolt.Tx) error {
		end = tx.Size()
		return nil
	})
	return end, err == nil
}
