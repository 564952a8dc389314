package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/hallpass-ssh/hallpass/store"
)

// The pages of a bbolt file of version 2. A page begins with its number of 8 bytes, flags and count of 2, and how many pages of
// overflow follow it, 4. Then come elements of 16 bytes. Of a branch page: the position of its key, its size, 4 bytes each, and the
// number of the page below, 8. Of a leaf page: flags, position of the key, size of the key, size of the value, 4 each. Positions
// count from the element. The value of a leaf element with the flag of a bucket is the number of its root page and a sequence, 8 each;
// for the number 0, a page of its own follows there.
const (
	branchFlag     = 0x01
	leafFlag       = 0x02
	freelistFlag   = 0x10
	bucketElement  = 0x01
	pageHeader     = 16
	elementSize    = 16
	noFreelist     = ^uint64(0)
	maxDepth       = 32
	maxOverflow    = 64 << 20 / pageSize // a blob has 16 MB at most, and the list of free pages 8 bytes for each
	rootInMeta     = 32                  // where a meta page says which page is the root: its header, and four numbers of 4 bytes
	freelistInMeta = rootInMeta + 16
)

// pageWalk reads each page of a file that leads to something.
type pageWalk struct {
	f       *os.File
	pages   uint64
	visited []bool
	spare   [][]byte // pages that were looked at, whose memory serves again
}

// checkTree refuses a file whose pages do not make a tree in which each key is found by its way from the root. bbolt itself trusts
// its pages: it would miss what is there, read beyond them, write over them, or never end. So nothing is looked up in a file that was
// not checked. The file is one that bbolt has open, so that nobody writes to it.
func checkTree(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(checkTreeOf(f), f.Close())
}

func checkTreeOf(f *os.File) error {
	metas, err := readMetaPages(f)
	if err != nil {
		return err
	}
	if len(metas) == 0 {
		return fmt.Errorf("%w: no meta page is valid", store.ErrDamaged)
	}
	newest := metas[0] // as bbolt has it: of two with one number, the first
	for _, m := range metas[1:] {
		if m.tx > newest.tx {
			newest = m
		}
	}
	meta := make([]byte, pageHeader+64)
	if _, err := f.ReadAt(meta, newest.at); err != nil {
		return err
	}
	w := &pageWalk{f: f, pages: newest.pages, visited: make([]bool, newest.pages)}
	if w.pages < 4 {
		return fmt.Errorf("%w: it says that it has no pages", store.ErrDamaged)
	}
	if err := w.page(binary.NativeEndian.Uint64(meta[rootInMeta:]), nil, nil, 0); err != nil {
		return fmt.Errorf("%w: %w", store.ErrDamaged, err)
	}
	if err := w.freelist(binary.NativeEndian.Uint64(meta[freelistInMeta:])); err != nil {
		return fmt.Errorf("%w: %w", store.ErrDamaged, err)
	}
	return nil
}

// read returns a page with its overflow. Each may be reached once.
func (w *pageWalk) read(number uint64) ([]byte, error) {
	if number < 2 || number >= w.pages {
		return nil, fmt.Errorf("there is no page %d", number)
	}
	page := w.empty()
	if _, err := w.f.ReadAt(page, int64(number)*pageSize); err != nil {
		return nil, err
	}
	overflow := uint64(binary.NativeEndian.Uint32(page[12:]))
	if binary.NativeEndian.Uint64(page) != number || overflow > w.pages-number-1 {
		return nil, fmt.Errorf("page %d says that it is another", number)
	}
	if overflow > maxOverflow {
		return nil, fmt.Errorf("page %d says that it goes on for %d pages, more than the largest value needs", number, overflow)
	}
	for n := number; n <= number+overflow; n++ {
		if w.visited[n] {
			return nil, fmt.Errorf("page %d is reached by two ways", n)
		}
		w.visited[n] = true
	}
	if overflow == 0 {
		return page, nil
	}
	page = append(page, make([]byte, overflow*pageSize)...)
	if _, err := w.f.ReadAt(page[pageSize:], int64(number+1)*pageSize); err != nil {
		return nil, err
	}
	return page, nil
}

// empty returns memory for a page.
func (w *pageWalk) empty() []byte {
	if n := len(w.spare); n > 0 {
		page := w.spare[n-1]
		w.spare = w.spare[:n-1]
		return page[:pageSize]
	}
	return make([]byte, pageSize)
}

// page checks a page and those below it. Its keys are from low on, and below high if that is not nil.
func (w *pageWalk) page(number uint64, low, high []byte, depth int) error {
	page, err := w.read(number)
	if err != nil {
		return err
	}
	if err := w.elements(page, low, high, depth); err != nil {
		return fmt.Errorf("page %d: %w", number, err)
	}
	w.spare = append(w.spare, page)
	return nil
}

func (w *pageWalk) elements(page, low, high []byte, depth int) error {
	flags, count := binary.NativeEndian.Uint16(page[8:]), int(binary.NativeEndian.Uint16(page[10:]))
	if depth > maxDepth || flags != branchFlag && flags != leafFlag || pageHeader+count*elementSize > len(page) || flags == branchFlag && count == 0 {
		return errors.New("it is neither a branch nor a leaf of a tree")
	}
	keys := make([][]byte, count)
	for i := range count {
		var err error
		if keys[i], _, err = element(page, i, flags); err != nil {
			return err
		}
		if bytes.Compare(keys[i], low) < 0 || high != nil && bytes.Compare(keys[i], high) >= 0 || i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 {
			return fmt.Errorf("the key %x is out of order", keys[i])
		}
	}
	for i, key := range keys {
		e := page[pageHeader+i*elementSize:]
		next := high
		if i+1 < count {
			next = keys[i+1]
		}
		if flags == branchFlag {
			if err := w.page(binary.NativeEndian.Uint64(e[8:]), key, next, depth+1); err != nil {
				return err
			}
			continue
		}
		if err := w.leaf(page, i, depth); err != nil {
			return err
		}
	}
	return nil
}

// leaf follows an element that is a bucket.
func (w *pageWalk) leaf(page []byte, i, depth int) error {
	_, value, err := element(page, i, leafFlag)
	if err != nil {
		return err
	}
	switch flags := binary.NativeEndian.Uint32(page[pageHeader+i*elementSize:]); {
	case flags == 0:
		return nil
	case flags != bucketElement || len(value) < 16:
		return errors.New("an element is neither a value nor a bucket")
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return w.page(root, nil, nil, depth+1)
	}
	inline := value[16:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != leafFlag {
		return errors.New("a bucket has no page")
	}
	return w.elements(inline, nil, nil, depth+1)
}

// element returns the key of an element, and the value of one of a leaf.
func element(page []byte, i int, flags uint16) (key, value []byte, err error) {
	at := pageHeader + i*elementSize
	e := page[at : at+elementSize]
	var position, keySize, valueSize uint64
	if flags == branchFlag {
		position, keySize = uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:]))
	} else {
		position = uint64(binary.NativeEndian.Uint32(e[4:]))
		keySize, valueSize = uint64(binary.NativeEndian.Uint32(e[8:])), uint64(binary.NativeEndian.Uint32(e[12:]))
	}
	begin := uint64(at) + position
	if end := begin + keySize + valueSize; position < elementSize || end > uint64(len(page)) {
		return nil, nil, errors.New("an element lies beyond it")
	}
	return page[begin : begin+keySize], page[begin+keySize : begin+keySize+valueSize], nil
}

// freelist wants no page both free and in use: a daemon would write over it.
func (w *pageWalk) freelist(number uint64) error {
	if number == noFreelist {
		return nil
	}
	page, err := w.read(number)
	if err != nil {
		return err
	}
	list := page[pageHeader:]
	count := uint64(binary.NativeEndian.Uint16(page[10:]))
	if count == 0xFFFF { // then the first entry is the count
		count, list = binary.NativeEndian.Uint64(list), list[8:]
	}
	if binary.NativeEndian.Uint16(page[8:]) != freelistFlag || count > uint64(len(list)/8) {
		return fmt.Errorf("page %d is not the list of free pages", number)
	}
	for i := range count {
		if free := binary.NativeEndian.Uint64(list[8*i:]); free < 2 || free >= w.pages || w.visited[free] {
			return fmt.Errorf("page %d is free and in use", free)
		}
	}
	return nil
}
