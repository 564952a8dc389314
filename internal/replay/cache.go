package replay

import (
	"container/list"
	"sync"
)

// cache holds what was used last, up to a number. Whoever wants a value that somebody else fetches, waits for it.
type cache[K comparable, V any] struct {
	most int

	mu      sync.Mutex // guards what follows
	entries map[K]*list.Element
	order   *list.List // of *cached[K, V], what was used last in front
}

type cached[K comparable, V any] struct {
	key   K
	value func() (V, error) // fetches once
}

func newCache[K comparable, V any](most int) *cache[K, V] {
	return &cache[K, V]{most: most, entries: map[K]*list.Element{}, order: list.New()}
}

// get returns the value of key, which fetch gets if it is not there. An error is not kept.
func (c *cache[K, V]) get(key K, fetch func(K) (V, error)) (V, error) {
	value, err := c.find(key, fetch).value()
	if err != nil {
		c.forget(key)
	}
	return value, err
}

func (c *cache[K, V]) find(key K, fetch func(K) (V, error)) *cached[K, V] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.entries[key]; ok {
		c.order.MoveToFront(element)
		found, _ := element.Value.(*cached[K, V])
		return found
	}
	found := &cached[K, V]{key, sync.OnceValues(func() (V, error) { return fetch(key) })}
	c.entries[key] = c.order.PushFront(found)
	if c.order.Len() > c.most {
		last, _ := c.order.Remove(c.order.Back()).(*cached[K, V])
		delete(c.entries, last.key)
	}
	return found
}

func (c *cache[K, V]) forget(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.entries[key]; ok {
		c.order.Remove(element)
		delete(c.entries, key)
	}
}
