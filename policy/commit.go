package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// Commit is what git says of a policy. Author, time and subject are what whoever made the commit claims.
type Commit struct {
	// Author is "Name <email>".
	Author string
	// Time is when it was committed.
	Time time.Time
	// Subject is the first line of the message.
	Subject string
	// Signer names, once Signers.Verify vouches for the commit, the principals of the key that signed it, and SigningKey is its
	// fingerprint, "SHA256:...".
	Signer, SigningKey string

	tree      plumbing.Hash
	payload   []byte // what a signature covers
	signature string // armoured; empty if there is none
}

// parseCommit reads a commit from its bytes: a signature covers these, not what a parser makes of them.
func parseCommit(id plumbing.Hash, raw []byte) (*Commit, error) {
	c := &Commit{}
	header, message, _ := bytes.Cut(raw, []byte("\n\n"))
	c.Subject = subject(message)
	var signature strings.Builder
	inSignature, inOther, signatures := false, false, 0
	for line := range bytes.Lines(append(header[:len(header):len(header)], '\n')) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		switch continued := line[0] == ' '; {
		case continued && inSignature:
			signature.Write(line[1:])
			continue
		case continued && inOther:
			continue
		}
		inSignature, inOther = key == "gpgsig", key == "gpgsig-sha256" // the other is that of the same commit under another hash
		switch {
		case inSignature:
			signatures++
			signature.WriteString(value + "\n")
			continue
		case inOther:
			continue
		case key == "tree" && c.tree.IsZero():
			c.tree = plumbing.NewHash(value)
		case key == "author":
			c.Author, _ = person(value)
		case key == "committer":
			_, c.Time = person(value)
		}
		c.payload = append(c.payload, line...)
	}
	if signatures > 1 {
		return nil, faultf(pb.PolicyFault_POLICY_FAULT_BAD_SIGNATURE, "commit %.12s has %d signatures, and which one counts cannot be told: sign it once",
			id.String(), signatures)
	}
	if c.tree.IsZero() {
		return nil, fmt.Errorf("commit %s has no tree", id)
	}
	c.signature = signature.String()
	c.payload = append(append(c.payload, '\n'), message...)
	return c, nil
}

// person reads "Name <email> seconds zone".
func person(s string) (name string, at time.Time) {
	end := strings.LastIndexByte(s, '>')
	if end < 0 {
		return s, at
	}
	seconds, _, _ := strings.Cut(strings.TrimSpace(s[end+1:]), " ")
	if n, err := strconv.ParseInt(seconds, 10, 64); err == nil && n > 0 && n < 253402300800 { // the year 10000
		at = time.Unix(n, 0).UTC()
	}
	return s[:end+1], at
}

// subject is the first line of a message.
func subject(message []byte) string {
	line, _, _ := strings.Cut(strings.TrimLeft(string(message), "\n"), "\n")
	return strings.TrimSpace(line)
}

// contents reads an object that says how large it is.
func contents(o plumbing.EncodedObject, limit int64) ([]byte, error) {
	r, err := o.Reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, errors.New("it is larger than it says")
	}
	return data, nil
}
