package verify

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// sweepEvery is after how many records facts that expired are forgotten.
const sweepEvery = 1 << 16

// standing is a fact that stands, and the record that it follows from.
type standing struct {
	value   []byte
	expires time.Time
	index   uint64
	// carried says that an archive carried it over, so that the record which it follows from is not known.
	carried bool
	// seen says that it was found among the stored facts.
	seen bool
}

// projection is what follows from the records so far. Facts that may be written only once and never expire make up nearly all of a
// long log: of those it keeps only a sum of their fingerprints, drawn anew in each run, so that nobody can make two sets of facts
// with the same sum.
type projection struct {
	facts map[string]standing
	once  sum
	time  time.Time
}

// sum is that of the fingerprints of a set.
type sum struct {
	seeds [2]maphash.Seed
	of    [2]uint64
	n     uint64
}

func (s *sum) add(f Fact) {
	for i, seed := range s.seeds {
		s.of[i] += fingerprint(seed, f)
	}
	s.n++
}

func fingerprint(seed maphash.Seed, f Fact) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(f.Key)))
	_, _ = h.Write(size[:])
	_, _ = h.Write(f.Key)
	_, _ = h.Write(f.Value)
	return h.Sum64()
}

func (p *projection) init() {
	p.facts = map[string]standing{}
	p.once.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
}

// take adds the facts of the record at index, each if its rule lets it.
func (p *projection) take(index uint64, at time.Time, facts []Fact) error {
	p.time = at
	if index%sweepEvery == sweepEvery-1 {
		for key, f := range p.facts {
			if f.expired(at) {
				delete(p.facts, key)
			}
		}
	}
	for _, f := range facts {
		if err := p.allows(f); err != nil {
			return err
		}
	}
	p.put(index, at, facts)
	return nil
}

// put adds facts whatever their rules say.
func (p *projection) put(index uint64, at time.Time, facts []Fact) {
	p.time = at
	for _, f := range facts {
		switch {
		case f.Rule == Holds:
		case f.Rule == Ends:
			delete(p.facts, string(f.Key))
		case f.Rule == New && f.Expires.IsZero():
			p.once.add(f)
		default:
			old, stands := p.facts[string(f.Key)]
			if !stands || old.expired(at) || f.Expires.IsZero() || !old.same(f.Value, f.Expires) { // else it stays where it is
				p.facts[string(f.Key)] = standing{value: f.Value, expires: f.Expires, index: index}
			}
		}
	}
}

func (p *projection) allows(f Fact) error {
	old, stands := p.facts[string(f.Key)]
	stands = stands && !old.expired(p.time)
	switch {
	case f.Rule == New && !stands,
		f.Rule == Same && (!stands || bytes.Equal(old.value, f.Value)),
		f.Rule == Set,
		f.Rule == Holds && stands && bytes.Equal(old.value, f.Value),
		f.Rule == Ends && stands && !bytes.Equal(old.value, f.Value):
		return nil
	}
	what, _, _ := strings.Cut(string(f.Key), "/")
	switch {
	case !stands:
		return fmt.Errorf("it needs the fact %q, which does not stand", printable(f.Key))
	case what == "nonce":
		return fmt.Errorf("its nonce was used before, by record %d", old.index)
	case what == "token":
		return fmt.Errorf("its ID token was used before, by record %d", old.index)
	}
	return fmt.Errorf("it contradicts the fact %q, which stands by record %d", printable(f.Key), old.index)
}

func (s standing) expired(at time.Time) bool {
	return !s.expires.IsZero() && s.expires.Unix() <= at.Unix()
}

// compare holds the facts as stored against those that follow from the records, and returns how many there are.
func (p *projection) compare(s Source, a *archive) (uint64, error) {
	stored := sum{seeds: p.once.seeds}
	var n uint64
	for f, err := range s.Stored {
		if err != nil {
			return n, fmt.Errorf("read the stored facts: %w", err)
		}
		n++
		if a.page(f, s.InIndex) {
			continue
		}
		want, known := p.facts[string(f.Key)]
		switch {
		case known && !want.expired(p.time):
			if !want.same(f.Value, f.Expires) || !f.Expires.IsZero() && f.Record != want.index && !want.carried {
				return n, &RecordError{Index: want.index, Err: &FactError{f.Key, fmt.Errorf("the stored fact %q, which follows from it, was changed", printable(f.Key))}}
			}
			if want.seen {
				return n, &RecordError{Index: want.index, Err: &FactError{f.Key, fmt.Errorf("the fact %q, which follows from it, is stored twice", printable(f.Key))}}
			}
			want.seen = true
			p.facts[string(f.Key)] = want
		case (standing{expires: f.Expires}).expired(p.time) && mayExpire(f.Key):
			continue // as good as none, whether it is there or not
		case !f.Expires.IsZero():
			return n, stray(f)
		default:
			stored.add(f)
		}
	}
	if err := p.missing(); err != nil {
		return n, err
	}
	if err := a.pagesEnd(); err != nil {
		return n, err
	}
	if stored != p.once {
		return n, p.name(s, a)
	}
	return n, nil
}

func mayExpire(key []byte) bool {
	return bytes.HasPrefix(key, []byte("nonce/")) || bytes.HasPrefix(key, []byte("token/"))
}

// missing names the first record of which a fact is not stored.
func (p *projection) missing() error {
	first, key := ^uint64(0), ""
	for k, f := range p.facts {
		if !f.seen && !f.expired(p.time) && (f.index < first || f.index == first && k < key) {
			first, key = f.index, k
		}
	}
	if key == "" {
		return nil
	}
	return &RecordError{Index: first, Err: &FactError{[]byte(key), fmt.Errorf("the fact %q, which follows from it, is not stored", printable([]byte(key)))}}
}

// name finds the fact that makes the sums differ. It takes the memory that sums save.
func (p *projection) name(s Source, a *archive) error {
	seed := p.once.seeds[0]
	there := map[uint64]bool{}
	for f, err := range s.Stored {
		if err != nil {
			return fmt.Errorf("read the stored facts: %w", err)
		}
		there[fingerprint(seed, f)] = true
	}
	var indexed func(*pb.Record) ([]Fact, error)
	if s.Index != nil && a.missing == 0 {
		indexed = s.Index()
	}
	follows, index := map[uint64]bool{}, uint64(0)
	for raw, err := range s.Records {
		if err != nil {
			return fmt.Errorf("read record %d: %w", index, err)
		}
		if index == a.before() && a.missing > 0 && s.Resume != nil {
			if indexed, err = s.Resume(index); err != nil {
				return err
			}
		}
		if raw == nil {
			index++
			continue
		}
		r, err := parseRecord(raw)
		if err != nil {
			return &RecordError{Index: index, Err: err}
		}
		if a.missing > 0 && index < a.before() && leaves(r.record) {
			index++
			continue
		}
		facts, err := s.Derive(r.record)
		if err == nil {
			facts, err = together(indexed, r.record, facts)
		}
		if err != nil {
			return &RecordError{Index: index, Err: err}
		}
		for _, f := range facts {
			if f.Rule != New || !f.Expires.IsZero() {
				continue
			}
			print := fingerprint(seed, f)
			if !there[print] || follows[print] {
				return &RecordError{Index: index, Err: &FactError{f.Key, fmt.Errorf("the fact %q, which follows from it, is not stored as it should be", printable(f.Key))}}
			}
			follows[print] = true
		}
		index++
	}
	for f, err := range s.Stored {
		if err != nil {
			return fmt.Errorf("read the stored facts: %w", err)
		}
		if a.missing > 0 && s.InIndex != nil && s.InIndex(f.Key, a.before()) {
			continue
		}
		if _, compared := p.facts[string(f.Key)]; !compared && f.Expires.IsZero() && !follows[fingerprint(seed, f)] {
			return stray(f)
		}
	}
	return fmt.Errorf("the stored facts are not those that follow from the records")
}

// stray says that a stored fact follows from no record. If it names one, that is said too.
func stray(f Fact) error {
	err := fmt.Errorf("the stored fact %q follows from no record", printable(f.Key))
	if i := len(f.Key) - 9; i >= 0 && f.Key[i] == '/' {
		err = fmt.Errorf("%w; it names record %d", err, binary.BigEndian.Uint64(f.Key[i+1:]))
	}
	return &FactError{f.Key, err}
}

// printable shows a key: text as it is, what is binary in hexadecimal.
func printable(key []byte) string {
	what, rest, ok := bytes.Cut(key, []byte("/"))
	if !ok || strings.Trim(string(rest), "abcdefghijklmnopqrstuvwxyz0123456789-") == "" {
		return string(key)
	}
	return fmt.Sprintf("%s/%x", what, rest)
}
