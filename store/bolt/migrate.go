package bolt

import (
	"errors"
	"fmt"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	"go.etcd.io/bbolt"
)

// migrated returns a log whose facts are those of this program: s itself, or, if an older program derived them, a copy that took its
// place. A newer format of the file will be reached in the same way: records are never changed, all else is made of them.
func (s *Store) migrated() (*Store, error) {
	version, err := factsVersion(s.db)
	if err == nil && version == audit.FactsVersion {
		return s, nil
	}
	if err == nil && version > audit.FactsVersion {
		err = fmt.Errorf("its facts have the version %d, this program knows %d: use a newer program", version, audit.FactsVersion)
	}
	if err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	s.cfg.Logger.Info("an older program wrote the log: its facts are made anew, which takes a minute for each million records", "file", s.path)
	// The lock of the old file is held until the new one is in its place.
	_, replaceErr := s.replace()
	if err := errors.Join(replaceErr, s.db.Close()); err != nil {
		return nil, fmt.Errorf("make its facts anew: %w", err)
	}
	return openExisting(s.path, s.cfg)
}

func factsVersion(db *bbolt.DB) (version int, err error) {
	err = db.View(func(tx *bbolt.Tx) (err error) {
		version, err = factsVersionOf(tx)
		return err
	})
	return version, err
}

func factsVersionOf(tx *bbolt.Tx) (int, error) {
	switch v := tx.Bucket(metaBucket).Get(factsKey); len(v) {
	case 0:
		return 1, nil
	case 1:
		return int(v[0]), nil
	default:
		return 0, fmt.Errorf("the version %x of its facts is none", v)
	}
}
