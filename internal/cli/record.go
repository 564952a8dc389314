package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// recordVersion is the newest format of records that this tool can read.
const recordVersion = 1

// recordJSON is the form of a record in results.
type recordJSON struct {
	Index string `json:"index"`
	// Epoch and Index together are those of no other record, also if the log is restored from a backup.
	Epoch uint32    `json:"epoch"`
	Time  time.Time `json:"time"`
	// Event is the name of what happened, as in the protocol: "decided", "policy_loaded".
	Event string `json:"event"`
	// Who is the email of the caller, or the subject at the issuer.
	Who     string `json:"who,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	Login   string `json:"login,omitempty"`
	Host    string `json:"host,omitempty"`
	Rule    string `json:"rule,omitempty"`
	// Environment is that of the host, Policy the revision that decided or its digest, Source where the call came from.
	Environment string `json:"environment,omitempty"`
	Policy      string `json:"policy,omitempty"`
	Source      string `json:"source,omitempty"`
	Reason      string `json:"reason,omitempty"`
	Serial      string `json:"serial,omitempty"`
	Message     string `json:"message,omitempty"`
	// Reviews are the review rules that ask people to look at it, ReviewDue is until when.
	Reviews   []string  `json:"reviews,omitempty"`
	ReviewDue time.Time `json:"review_due,omitzero"`
	// Detail is the event in the JSON form of its protocol message.
	Detail json.RawMessage `json:"detail"`
}

const recordHeader = "RECORD   TIME                  EVENT                 WHAT"

// newRecordJSON reads a record as stored, with the identity it cites.
func newRecordJSON(entry *pb.Entry) (recordJSON, error) {
	var record pb.Record
	if err := proto.Unmarshal(entry.GetRecord(), &record); err != nil {
		return recordJSON{}, fmt.Errorf("read a record of the log: %w", err)
	}
	if record.GetVersion() > recordVersion {
		return recordJSON{}, fmt.Errorf("record %d has the format %d: this hallpass is too old to read it", record.GetIndex(), record.GetVersion())
	}
	out := recordJSON{Index: strconv.FormatUint(record.GetIndex(), 10), Epoch: record.GetEpoch(), Time: record.GetTime().AsTime(), Event: "unknown"}
	m := record.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("event"))
	if field != nil {
		out.Event = string(field.Name())
		detail, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m.Get(field).Message().Interface())
		if err != nil {
			return recordJSON{}, fmt.Errorf("read record %d: %w", record.GetIndex(), err)
		}
		out.Detail = detail
		out.describe(&record, m.Get(field).Message())
	}
	if err := out.nameCaller(entry.GetSnapshot()); err != nil {
		return recordJSON{}, fmt.Errorf("read the identity of record %d: %w", record.GetIndex(), err)
	}
	return out, nil
}

// describe fills the fields that people look for.
func (r *recordJSON) describe(record *pb.Record, event protoreflect.Message) {
	r.Outcome, r.Source = audit.DecisionOf(record), audit.Value(record, audit.FieldSource)
	if p := audit.PolicyOf(record); p != nil {
		r.Policy = policyName(p)
	}
	switch e := event.Interface().(type) {
	case *pb.Decided:
		r.Who = e.GetCaller().GetSubject()
		r.Login, r.Host = e.GetAsked().GetLogin(), e.GetAsked().GetHost()
		r.Rule, r.Environment, r.Reason = e.GetDecision().GetRule(), e.GetDecision().GetEnvironment(), e.GetAsked().GetReason()
		r.Message = e.GetRefusal().GetMessage()
		for _, rule := range e.GetReview().GetRules() {
			r.Reviews, r.ReviewDue = append(r.Reviews, rule.GetName()), e.GetReview().GetDue().AsTime()
		}
		if len(e.GetToBeSigned()) > 0 {
			r.Serial = strconv.FormatUint(uint64(record.GetEpoch())<<40+record.GetIndex()+1, 10)
		}
	case *pb.PolicyLoaded:
		r.Message = "policy " + policyName(e.GetPolicy()) + " from " + e.GetSource()
	case *pb.PolicyRefused:
		r.Message = e.GetMessage()
	case *pb.AuthorityKeyListed:
		r.Message = "authority " + e.GetAuthority()
	case *pb.SignatureFailed:
		r.Message = fmt.Sprintf("record %d: %s", e.GetDecided(), e.GetMessage())
	case *pb.RefusalsCounted:
		r.Who = e.GetCaller().GetSubject()
		r.Message = fmt.Sprintf("%d refusals", e.GetCount())
	case *pb.SignInBound:
		r.Who = e.GetCaller().GetSubject()
		r.Message = "signed in; this sign-in belongs to one key now"
	case *pb.PolicyAccepted:
		r.Who = e.GetCaller().GetSubject()
		r.Message = "accepted the policy " + short(e.GetRevision()) + ": " + e.GetReason()
	case *pb.Restored:
		r.Message = "went on from a backup, by " + e.GetBy()
		if e.GetReason() != "" {
			r.Message += ": " + e.GetReason()
		}
	case *pb.IdentityErased:
		r.Who = e.GetCaller().GetSubject()
		r.Message = fmt.Sprintf("erased %s of %s: %s", plural(len(e.GetSnapshots()), "snapshot"), e.GetSubject(), e.GetReason())
	case *pb.BackupTaken:
		r.Who = e.GetCaller().GetSubject()
		r.Message = fmt.Sprintf("took a backup of %d records", e.GetRecords())
	case *pb.Archived:
		r.Message = fmt.Sprintf("archived %d records from before %s, by %s", e.GetRecords(), e.GetUntil().AsTime().Format(time.RFC3339), e.GetBy())
		if e.GetReason() != "" {
			r.Message += ": " + e.GetReason()
		}
	case *pb.Reviewed:
		r.Who = e.GetCaller().GetSubject()
		r.Message = fmt.Sprintf("reviewed record %d: %s", e.GetDecided(), e.GetComment())
	case *pb.AccessRefused:
		r.Who = e.GetCaller().GetSubject()
		r.Message = e.GetRefusal().GetMessage()
	case *pb.StrangersCounted:
		var counts []string
		for _, c := range e.GetCounts() {
			counts = append(counts, fmt.Sprintf("%d %s", c.GetCount(), c.GetName()))
		}
		r.Message = strings.Join(counts, ", ")
	}
}

// nameCaller shows the email of the caller in place of the subject, if the record cites an identity that has one.
func (r *recordJSON) nameCaller(snapshot []byte) error {
	var identity pb.IdentitySnapshot
	if err := proto.Unmarshal(snapshot, &identity); err != nil {
		return err
	}
	if identity.GetEmail() != "" {
		r.Who = identity.GetEmail()
	}
	return nil
}

// line is a record in a table.
func (r recordJSON) line() string {
	var what []string
	add := func(s string) {
		if s != "" {
			what = append(what, s)
		}
	}
	add(r.Who)
	if r.Login != "" || r.Host != "" {
		add(r.Login + "@" + r.Host)
	}
	add(r.Outcome)
	if r.Rule != "" {
		add("rule=" + r.Rule)
	}
	if r.Serial != "" {
		add("serial=" + r.Serial)
	}
	if len(r.Reviews) > 0 {
		add("review=" + strings.Join(r.Reviews, ","))
	}
	add(r.Message)
	text := strings.Join(strings.Fields(plain(strings.Join(what, " "))), " ")
	return strings.TrimRight(fmt.Sprintf("%-8s %-21s %-21s %s", r.Index, r.Time.Format(time.RFC3339), r.Event, text), " ")
}
