package server

import (
	"context"
	"strconv"
	"strings"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"google.golang.org/protobuf/proto"
)

const (
	// maxCountBytes is about how large an answer becomes. Clients take messages of 4 MB.
	maxCountBytes = 1 << 20
	// maxCounted is the length of the longest value that is counted by itself, in bytes: what was refused may hold anything.
	maxCounted = 256
)

// counted are the fields that are counted. A person and a grant are put together here.
var counted = []struct {
	name  string
	field audit.Field
}{
	{"event", audit.FieldEvent}, {"login", audit.FieldLogin}, {"host", audit.FieldHost}, {"environment", audit.FieldEnvironment},
	{"decision", audit.FieldDecision}, {"rule", audit.FieldRule}, {"source", audit.FieldSource},
}

// CountRecords looks at every record that is asked for, so a call ends after a part of the log.
func (s auditService) CountRecords(ctx context.Context, in *pb.CountRecordsRequest) (*pb.CountRecordsResponse, error) {
	about := &pb.ListRecordsResponse{}
	q, err := s.query(ctx, pb.AuditService_CountRecords_FullMethodName, in.GetOf(), about)
	if err != nil {
		return nil, err
	}
	c := counter{tallies: map[tallyKey]*pb.RecordTally{}, emails: map[string]string{}, snapshot: func(r *pb.Record) ([]byte, error) { return s.snapshot(ctx, r) }}
	match, stop := q.Filter.Match, q.Stop
	q.Filter.Match = func(r *pb.Record) (bool, error) {
		if match != nil {
			if fits, err := match(r); !fits || err != nil {
				return false, err
			}
		}
		return false, c.count(r)
	}
	q.Stop = func() bool { return c.bytes > maxCountBytes || stop() }
	page, err := store.Search(ctx, s.cfg.Store, q)
	if err != nil {
		return nil, err
	}
	if err := s.polite.read(ctx, c.records/countedRecords); err != nil {
		return nil, err
	}
	out := &pb.CountRecordsResponse{Own: about.GetOwn(), Failed: about.GetFailed(), Failure: about.GetFailure()}
	if page.Next != nil {
		out.NextPageToken = strconv.FormatUint(*page.Next, 10)
	} else if out.Archived, err = s.archived(ctx, q); err != nil {
		return nil, err
	}
	for _, t := range c.tallies {
		out.Tallies = append(out.Tallies, t)
	}
	return out, nil
}

type tallyKey struct{ field, value string }

// counter sums up records, the newest first.
type counter struct {
	tallies  map[tallyKey]*pb.RecordTally
	emails   map[string]string // of snapshots, by digest
	snapshot func(*pb.Record) ([]byte, error)
	bytes    int
	records  int
}

func (c *counter) count(r *pb.Record) error {
	c.records++
	for _, f := range counted {
		c.add(r, f.name, audit.Value(r, f.field))
	}
	if d := r.GetDecided(); len(d.GetToBeSigned()) > 0 {
		c.add(r, "grant", d.GetDecision().GetRule()+" "+d.GetAsked().GetLogin())
	}
	person, err := c.person(r)
	c.add(r, "person", person)
	return err
}

// person names the caller by the email that the record cites, or by the subject.
func (c *counter) person(r *pb.Record) (string, error) {
	caller := audit.CallerOf(r)
	if caller == nil {
		return "", nil
	}
	email, ok := c.emails[string(caller.GetSnapshot())]
	if !ok {
		blob, err := c.snapshot(r)
		if err != nil {
			return "", err
		}
		var id pb.IdentitySnapshot
		if err := proto.Unmarshal(blob, &id); err != nil {
			return "", err
		}
		email = id.GetEmail()
		c.emails[string(caller.GetSnapshot())] = email
	}
	if email != "" {
		return email, nil
	}
	return caller.GetSubject(), nil
}

func (c *counter) add(r *pb.Record, field, value string) {
	if value == "" {
		return
	}
	if len(value) > maxCounted {
		value = strings.ToValidUTF8(value[:maxCounted], "") + "..."
	}
	key := tallyKey{field, value}
	t := c.tallies[key]
	if t == nil {
		t = &pb.RecordTally{Field: field, Value: value, Last: r.GetTime()}
		c.tallies[key] = t
		c.bytes += len(field) + len(value) + 32
	}
	t.Records++
	switch audit.DecisionOf(r) {
	case "":
	case audit.Granted:
		t.Granted++
	default:
		t.Refused++
	}
}
