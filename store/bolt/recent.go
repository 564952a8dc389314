package bolt

import (
	"sync"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// recentRecords is how many of the newest records are remembered: several full batches, in about a megabyte.
	recentRecords = 1024
	// recentHashes is how many hashes are, each at the one place that its index has.
	recentHashes = 1 << 14
	// recentBlobs is how many blobs are, of at most recentBlob bytes: identity snapshots, of which whoever reads records wants one each.
	recentBlobs = 1024
	recentBlob  = 4 << 10
)

// recent remembers what is asked for over and over: the newest records, by those who follow the log and for the proof of what was
// just issued; the snapshots that these cite; and hashes of the tree, most of which near the root are the same in each proof. None
// of it changes, but a blob may be erased. Everything in it is durable. A nil one remembers nothing.
type recent struct {
	mu      sync.RWMutex // guards all below
	records [recentRecords]struct {
		index uint64
		bytes []byte // nil if there is none yet
	}
	hashes [recentHashes]struct {
		index int64 // 1 more than that of the hash; 0 if there is none yet
		hash  tlog.Hash
	}
	blobs map[[32]byte][]byte
	// erasures is how many blobs were erased.
	erasures uint64
}

// fresh is what a transaction adds to the log.
type fresh struct {
	first   uint64 // index of the first record
	records [][]byte
	hash    int64 // index of the first hash
	hashes  []tlog.Hash
	// erased are the digests of blobs that it erased.
	erased [][]byte
	// places are those of the facts that expire and that it wrote or forgot.
	places map[fingerprint]place
}

// add adds the next record with its hashes.
func (f *fresh) add(index uint64, record []byte, hash int64, hashes []tlog.Hash) {
	if len(f.records) == 0 {
		f.first, f.hash = index, hash
	}
	f.records, f.hashes = append(f.records, record), append(f.hashes, hashes...)
}

// add takes what has become durable.
func (r *recent) add(f fresh) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, bytes := range f.records {
		place := &r.records[(f.first+uint64(i))%recentRecords]
		place.index, place.bytes = f.first+uint64(i), bytes
	}
	for i, h := range f.hashes {
		r.put(f.hash+int64(i), h)
	}
	for _, digest := range f.erased {
		delete(r.blobs, [32]byte(digest))
		r.erasures++
	}
}

// put is called with the lock held.
func (r *recent) put(index int64, h tlog.Hash) {
	place := &r.hashes[index%recentHashes]
	place.index, place.hash = index+1, h
}

// addHashes takes hashes that were read.
func (r *recent) addHashes(indexes []int64, hashes []tlog.Hash) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, index := range indexes {
		r.put(index, hashes[i])
	}
}

// blob returns a blob if it has it, and what addBlob wants to know of the time when it was asked for.
func (r *recent) blob(digest [32]byte) (blob []byte, erasures uint64) {
	if r == nil {
		return nil, 0
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.blobs[digest], r.erasures
}

// addBlob takes a blob that was read, unless one was erased since: it might be the one.
func (r *recent) addBlob(digest [32]byte, blob []byte, erasures uint64) {
	if r == nil || len(blob) > recentBlob {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.erasures != erasures {
		return
	}
	if r.blobs == nil || len(r.blobs) >= recentBlobs {
		r.blobs = map[[32]byte][]byte{}
	}
	r.blobs[digest] = blob
}

// recordsFrom returns n records from an index on, if it has them all.
func (r *recent) recordsFrom(from uint64, n int) ([][]byte, bool) {
	if r == nil || n > recentRecords {
		return nil, false
	}
	records := make([][]byte, n)
	r.mu.RLock()
	defer r.mu.RUnlock()
	for i := range records {
		place := &r.records[(from+uint64(i))%recentRecords]
		if place.bytes == nil || place.index != from+uint64(i) {
			return nil, false
		}
		records[i] = place.bytes
	}
	return records, true
}

// hashesAt returns hashes in the order of their indexes, if it has them all.
func (r *recent) hashesAt(indexes []int64) ([]tlog.Hash, bool) {
	if r == nil {
		return nil, false
	}
	hashes := make([]tlog.Hash, len(indexes))
	r.mu.RLock()
	defer r.mu.RUnlock()
	for i, index := range indexes {
		if index < 0 {
			return nil, false
		}
		place := &r.hashes[index%recentHashes]
		if place.index != index+1 {
			return nil, false
		}
		hashes[i] = place.hash
	}
	return hashes, true
}
