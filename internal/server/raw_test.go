package server_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frameSize is the largest frame that every peer takes (RFC 9113 4.2).
const frameSize = 16 << 10

// rawConn speaks HTTP/2 as no gRPC library would.
type rawConn struct {
	t    *testing.T
	conn *tls.Conn
	*http2.Framer
	next uint32 // stream
}

func dialRaw(t *testing.T, address string, config *tls.Config) *rawConn {
	t.Helper()
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &rawConn{t: t, conn: conn, Framer: http2.NewFramer(conn, conn), next: 1}
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// headers are those of a good gRPC request for path, with some that differ; one that is empty is left out.
func headers(path string, differ map[string]string) []hpack.HeaderField {
	fields := []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: path}, {Name: ":authority", Value: "localhost"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}
	var all []hpack.HeaderField
	for _, f := range fields {
		if value, ok := differ[f.Name]; ok {
			f.Value = value
			delete(differ, f.Name)
		}
		if f.Value != "" {
			all = append(all, f)
		}
	}
	for name, value := range differ {
		all = append(all, hpack.HeaderField{Name: name, Value: value})
	}
	return all
}

// begin sends the headers of a request, in as many frames as they need, and returns its stream.
func (c *rawConn) begin(fields []hpack.HeaderField) uint32 {
	c.t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range fields {
		if err := encoder.WriteField(f); err != nil {
			c.t.Fatal(err)
		}
	}
	stream := c.next
	c.next += 2
	first := block.Next(frameSize)
	err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndHeaders: block.Len() == 0})
	for err == nil && block.Len() > 0 {
		part := block.Next(frameSize)
		err = c.WriteContinuation(stream, block.Len() == 0, part)
	}
	if err != nil {
		c.t.Logf("send headers: %v", err) // the server may have had enough
	}
	return stream
}

// message sends a gRPC message, with the flag of a compressed one or without.
func (c *rawConn) message(stream uint32, flag byte, body []byte) {
	c.t.Helper()
	rest := append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(body))), body...)
	for len(rest) > 0 {
		n := min(len(rest), frameSize)
		if err := c.WriteData(stream, n == len(rest), rest[:n]); err != nil {
			c.t.Logf("send message: %v", err)
			return
		}
		rest = rest[n:]
	}
}

// status returns how a stream ends: the gRPC status, the HTTP status, or what was reset or closed.
func (c *rawConn) status(stream uint32) string {
	c.t.Helper()
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			if streamErr := (http2.StreamError{}); errors.As(err, &streamErr) {
				return "reset"
			}
			return "closed"
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID != stream || !f.StreamEnded() {
				continue
			}
			ended := ""
			for _, h := range f.Fields {
				switch h.Name {
				case "grpc-status":
					return "grpc " + h.Value
				case ":status":
					ended = "http " + h.Value
				}
			}
			return ended
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return "reset"
			}
		case *http2.GoAwayFrame:
			return "closed"
		case *http2.SettingsFrame:
			if !f.IsAck() {
				if err := c.WriteSettingsAck(); err != nil {
					return "closed"
				}
			}
		}
	}
}
