package bolt

import (
	"bytes"
	"fmt"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"go.etcd.io/bbolt"
)

// indexPrefix is that of the facts which have a bucket of their own: they are only ever added at its end, so that their pages are
// filled, and those of the other facts are not touched.
var indexPrefix = []byte(audit.IndexPrefix)

// resumeIndex reads the index of the newest records, unless an earlier commit left it: from the tables of the chapter that is not
// complete, and the records of the block that is not.
func (w *writer) resumeIndex() error {
	if w.index != nil {
		return nil
	}
	w.index = &audit.Index{}
	w.index.Begin(w.head.size / audit.ChapterSize)
	for w.index.Next()+audit.BlockSize <= w.head.size {
		block := w.index.Next() / audit.BlockSize
		table := table(w.tx, block)
		if len(table) == 0 {
			return fmt.Errorf("the index of the log lacks block %d", block)
		}
		if err := w.index.Resume(table); err != nil {
			return err
		}
	}
	for w.index.Next() < w.head.size {
		r, err := audit.Parse(w.bucket(recordsBucket).Get(number(w.index.Next())))
		if err != nil {
			return err
		}
		if _, err := w.index.Add(r); err != nil {
			return err
		}
	}
	return nil
}

// table returns the pages of the table of a block.
func table(tx *bbolt.Tx, block uint64) [][]byte {
	var pages [][]byte
	prefix := audit.TablePrefix(audit.Blocks, block)
	c := tx.Bucket(indexBucket).Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		pages = append(pages, v)
	}
	return pages
}

// putIndex adds the record at the end of the log to the index, and writes what is complete of it. The bucket grows at two places only:
// where the blocks end, and where the chapters do.
func (w *writer) putIndex(r *pb.Record) {
	must(w.resumeIndex())
	facts, err := w.index.Add(r)
	must(err)
	b := w.bucket(indexBucket)
	b.FillPercent = fillPercent
	for _, f := range facts {
		must(b.Put(f.Key, f.Value))
	}
}
