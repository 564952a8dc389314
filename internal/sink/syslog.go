package sink

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// Syslog sends events in the form of RFC 5424, with the JSON of the event as the message: over TLS with the lengths in front (RFC
// 5425), over plain TCP likewise (RFC 6587 3.4.1), or as datagrams to a socket of this machine.
//
// The protocol has no answer: what a server took off the wire and lost, nobody hears of. What was under way when a connection broke
// is sent again.
type Syslog struct {
	network, address string
	tls              *tls.Config // nil for none
	host             string
	conn             net.Conn // nil while there is none
}

// The parts of a priority, RFC 5424 6.2.1.
const (
	facilityAuthPriv = 10
	severityWarning  = 4
	severityNotice   = 5
)

// maxDatagram is in bytes. The system may refuse larger ones, and one that it refuses would hold up all that follow.
const maxDatagram = 64 << 10

// NewSyslog returns the target at an address of a network: "tcp" or "unixgram", and "tls", which takes the configuration.
func NewSyslog(network, address string, config *tls.Config) (*Syslog, error) {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "-"
	}
	s := &Syslog{network: network, address: address, host: host}
	switch network {
	case "tls":
		s.network, s.tls = "tcp", config
	case "tcp", "unixgram":
	default:
		return nil, fmt.Errorf("no such network %q: tls, tcp or unixgram", network)
	}
	return s, nil
}

// Send implements Target.
func (s *Syslog) Send(ctx context.Context, events []Event) (err error) {
	if s.conn == nil {
		if s.conn, err = s.dial(ctx); err != nil {
			return fmt.Errorf("reach the syslog server: %w", err)
		}
	}
	defer func() {
		if err != nil { // half a message may have gone out
			err = errors.Join(fmt.Errorf("send to the syslog server: %w", err), s.Close())
		}
	}()
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if err := s.stillThere(); err != nil {
		return err
	}
	for _, e := range events {
		message, err := s.message(e)
		if err != nil {
			return err
		}
		if s.network != "unixgram" {
			message = append([]byte(strconv.Itoa(len(message))+" "), message...)
		}
		if _, err := s.conn.Write(message); err != nil {
			return err
		}
	}
	return nil
}

func (s *Syslog) dial(ctx context.Context) (net.Conn, error) {
	if s.tls != nil {
		return (&tls.Dialer{Config: s.tls}).DialContext(ctx, s.network, s.address)
	}
	return new(net.Dialer).DialContext(ctx, s.network, s.address)
}

// stillThere notices a server that hung up: the first write after that would seem to succeed. A syslog server says nothing, so all
// that can be read is the end.
func (s *Syslog) stillThere() error {
	if s.network == "unixgram" {
		return nil
	}
	if err := s.conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return err
	}
	_, err := s.conn.Read(make([]byte, 1))
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// message lays out an event: <PRI>1 TIME HOST APP PROCID MSGID STRUCTURED-DATA MSG.
func (s *Syslog) message(e Event) ([]byte, error) {
	text, err := json.Marshal(e)
	if err == nil && s.network == "unixgram" && len(text) > maxDatagram {
		e.Own.Record, e.Own.Detail = nil, json.RawMessage("{}") // what is left is bounded by the texts of a record
		text, err = json.Marshal(e)
	}
	if err != nil {
		return nil, err
	}
	severity := severityNotice
	if e.Event.Outcome == "failure" {
		severity = severityWarning
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "<%d>1 %s %s hallpassd - %s - ", facilityAuthPriv*8+severity, e.Time.Format("2006-01-02T15:04:05.000000Z07:00"), s.host, e.Event.Action)
	b.Write(text)
	return b.Bytes(), nil
}

// Close implements Target.
func (s *Syslog) Close() error {
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn = nil
	return err
}
