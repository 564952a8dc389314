package ca

import (
	"context"
	"fmt"
	"time"
)

// Step is a part of answering a call, for those who watch how long each takes.
type Step int

// The steps, in the order in which Issue takes them. Other calls take the first ones of them.
const (
	StepAuthenticate Step = iota // the ID token, and the rate of its identity
	StepPossession               // of the key that is to be certified
	StepBind                     // the token to that key
	StepDecide                   // by the policy, and limit
	StepRecord                   // until it is durable; refusals too
	StepSign
	Steps int = iota // how many there are
)

var stepNames = [Steps]string{"authenticate", "possession", "bind", "decide", "record", "sign"}

func (s Step) String() string {
	if s < 0 || int(s) >= Steps {
		return fmt.Sprintf("step %d", int(s))
	}
	return stepNames[s]
}

// Observer is told what a CA does. It is called while a caller waits, by many at once, so it MUST NOT wait for anything. Fields that
// are nil are told nothing.
type Observer struct {
	// Step is told that a step of a call ended just now, well or not, and when it began. The context is that of the call.
	Step func(ctx context.Context, s Step, began time.Time)
	// Issue is told what a call of Issue by a known identity within its rate came to, and when it began. An answer that was given
	// before has a Decision whose Environment has no Authority. After a panic there is neither. Nothing may be changed.
	Issue func(ctx context.Context, began time.Time, issued *Issued, err error)
	// SignatureFailed is told that a certificate which is in the log could not be signed.
	SignatureFailed func(authority string)
}

// withDefaults makes every field one that can be called.
func (o Observer) withDefaults() Observer {
	if o.Step == nil {
		o.Step = func(context.Context, Step, time.Time) {}
	}
	if o.Issue == nil {
		o.Issue = func(context.Context, time.Time, *Issued, error) {}
	}
	if o.SignatureFailed == nil {
		o.SignatureFailed = func(string) {}
	}
	return o
}
