package store

import (
	"maps"
	"slices"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// Filter says which records are asked for: those that fit all of it. The zero value fits every record.
type Filter struct {
	// Values are, of each field that is named, those of which a record must have one.
	Values map[audit.Field][]string
	// Callers are, if there are any, those of whom a record must have one.
	Callers []Caller
	// Only is, if it is given, the identity that a record must be about, whatever else is asked for.
	Only *Caller
	// Match is asked last, about records that fit all else; nil fits all. It finds nothing faster: each record that the rest lets
	// through is read for it.
	Match func(*pb.Record) (bool, error)
}

// Caller is a subject of an issuer; of any, if that is empty.
type Caller struct{ Issuer, Subject string }

// is tells whether c stands for the caller of a record.
func (c Caller) is(of *pb.Caller) bool {
	return of != nil && of.GetSubject() == c.Subject && (c.Issuer == "" || of.GetIssuer() == c.Issuer)
}

// IsZero tells whether every record fits.
func (f *Filter) IsZero() bool {
	return len(f.Values) == 0 && len(f.Callers) == 0 && f.Only == nil && f.Match == nil
}

// terms are those that the index has of the filter: of each list, a record that fits has one.
func (f *Filter) terms() [][]audit.Term {
	var all [][]audit.Term
	for _, field := range slices.Sorted(maps.Keys(f.Values)) {
		var terms []audit.Term
		for _, value := range f.Values[field] {
			terms = append(terms, audit.TermOf(field, value))
		}
		all = append(all, terms)
	}
	if f.Only != nil {
		all = append(all, []audit.Term{audit.TermOf(audit.FieldSubject, f.Only.Subject)})
	}
	var callers []audit.Term
	for _, c := range f.Callers {
		callers = append(callers, audit.TermOf(audit.FieldSubject, c.Subject))
	}
	if len(callers) > 0 {
		all = append(all, callers)
	}
	return all
}

// fits tells whether a record is asked for.
func (f *Filter) fits(r *pb.Record) (bool, error) {
	for field, values := range f.Values {
		if !slices.Contains(values, audit.Value(r, field)) {
			return false, nil
		}
	}
	caller := audit.CallerOf(r)
	if f.Only != nil && !f.Only.is(caller) {
		return false, nil
	}
	if len(f.Callers) > 0 && !slices.ContainsFunc(f.Callers, func(c Caller) bool { return c.is(caller) }) {
		return false, nil
	}
	if f.Match == nil {
		return true, nil
	}
	return f.Match(r)
}
