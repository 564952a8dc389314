package server

import (
	"context"
	"errors"
	"testing"
)

// TestCertificatesGoBeforeReaders: once many ask for certificates, readers wait for room; with few, nobody waits.
func TestCertificatesGoBeforeReaders(t *testing.T) {
	p := newPolite(nil)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range rush {
		defer p.issue()()
	}
	if err := p.read(over, 100*readBurst); err != nil {
		t.Errorf("with %d requests, a reader waited: %v", rush, err)
	}
	p.pause(t.Context())

	end := p.issue()
	if err := p.read(t.Context(), readBurst); err != nil {
		t.Errorf("the first records: %v", err)
	}
	if err := p.read(over, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("with more requests, a reader did not wait: %v", err)
	}
	p.pause(over) // ends with the reader
	end()
	if err := p.read(over, 1); err != nil {
		t.Errorf("after the rush, a reader waited: %v", err)
	}
}
