package audit

import "time"

// Fact is a projection of a record: what a later decision or a reader looks up. Facts are a pure function of the record.
type Fact struct {
	Key   []byte
	Value []byte
	Rule  FactRule
	// Expires is when the fact may be forgotten; zero for never.
	Expires time.Time
}

// FactRule says what must hold when a fact is written.
type FactRule int

// The rules. The zero value is none.
const (
	// New: the key must not exist.
	New FactRule = iota + 1
	// Same: the key must not exist, or have the same value.
	Same
	// Set: written whatever was there.
	Set
)
