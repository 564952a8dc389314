package idtoken

import (
	"sync"
	"time"
)

const (
	maxCached = 1024 // tokens, each with its claims: some 3 MB. To verify one anew takes less than a tenth of a millisecond
	maxLooked = 16   // at once, for some that have expired
)

// cache remembers verified tokens by the digest of all of their bytes. The zero value is empty. Only tokens that verified get
// in, so strangers cannot fill it.
type cache struct {
	mu     sync.Mutex // guards what follows
	tokens map[[32]byte]*token
	hits   uint64
	misses uint64
}

func (c *cache) get(digest [32]byte) *token {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tokens[digest]
	if t != nil {
		c.hits++
	} else {
		c.misses++
	}
	return t
}

func (c *cache) stats() CacheStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return CacheStats{Tokens: len(c.tokens), Hits: c.hits, Misses: c.misses}
}

// put adds a token; a full cache drops some to make room.
func (c *cache) put(t *token, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tokens == nil {
		c.tokens = map[[32]byte]*token{}
	}
	if len(c.tokens) >= maxCached {
		c.evict(now)
	}
	c.tokens[t.raw] = t
}

// evict drops those of a few tokens that have expired, or else any one: a full cache must not look at all it has for each newcomer.
// The caller holds the lock.
func (c *cache) evict(now time.Time) {
	looked := 0
	for raw, old := range c.tokens { // begins anywhere
		if looked++; looked > maxLooked {
			break
		}
		if old.expires.Before(now) {
			delete(c.tokens, raw)
		}
	}
	for raw := range c.tokens {
		if len(c.tokens) < maxCached {
			return
		}
		delete(c.tokens, raw)
	}
}
