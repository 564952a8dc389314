package bolt_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/fixture/logfile"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/hallpass-ssh/hallpass/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Backend{Create: func(t testing.TB, now func() time.Time) (store.Store, func() store.Store) {
		path, cfg := newPath(t), newConfig(t, now)
		return create(t, path, cfg), func() store.Store { return open(t, path, cfg) }
	}})
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "log.db") }

func newConfig(t testing.TB, now func() time.Time) bolt.Config {
	t.Helper()
	key, _, err := audit.GenerateLogKey()
	if err != nil {
		t.Fatal(err)
	}
	return bolt.Config{LogKey: key, Now: now}
}

func create(t testing.TB, path string, cfg bolt.Config) *bolt.Store {
	t.Helper()
	s, err := bolt.Create(path, cfg)
	return closing(t, path, s, err)
}

func open(t testing.TB, path string, cfg bolt.Config) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(path, cfg)
	return closing(t, path, s, err)
}

// closing closes a log at the end of the test, and has bbolt look at each page of its file. That it was closed before does no harm.
func closing(t testing.TB, path string, s *bolt.Store, err error) *bolt.Store {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		logfile.Check(t, path)
	})
	return s
}
