package idtoken

import (
	"sync"
	"time"
)

const maxCached = 4096 // tokens

// cache remembers verified tokens by the digest of all of their bytes. The zero value is empty. Only tokens that verified get in, so strangers cannot
// fill it.
type cache struct {
	mu     sync.Mutex // guards tokens
	tokens map[[32]byte]*token
}

func (c *cache) get(digest [32]byte) *token {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tokens[digest]
}

// put adds a token; a full cache drops those that have expired, or else any one.
func (c *cache) put(t *token, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tokens == nil {
		c.tokens = map[[32]byte]*token{}
	}
	if len(c.tokens) >= maxCached {
		for digest, old := range c.tokens {
			if old.expires.Before(now) {
				delete(c.tokens, digest)
			}
		}
	}
	if len(c.tokens) >= maxCached {
		for digest := range c.tokens {
			delete(c.tokens, digest)
			break
		}
	}
	c.tokens[t.raw] = t
}
