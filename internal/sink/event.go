package sink

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// schemaVersion is that of the Elastic Common Schema whose names events use.
const schemaVersion = "8.11.0"

// Event is a record as it looks outside. The names are those of the Elastic Common Schema; what it has no name for is below
// "hallpass".
type Event struct {
	Time    time.Time     `json:"@timestamp"`
	ECS     schema        `json:"ecs"`
	Event   eventFields   `json:"event"`
	Message string        `json:"message"`
	User    *user         `json:"user,omitempty"`
	Source  *source       `json:"source,omitempty"`
	Target  *destination  `json:"destination,omitempty"`
	Rule    *rule         `json:"rule,omitempty"`
	Own     hallpassField `json:"hallpass"`
}

type schema struct {
	Version string `json:"version"`
}

type eventFields struct {
	// ID is "<log id>/<epoch>/<index>", which no other event has.
	ID       string   `json:"id"`
	Sequence uint64   `json:"sequence"`
	Kind     string   `json:"kind"`
	Category []string `json:"category"`
	Type     []string `json:"type"`
	Action   string   `json:"action"`
	Outcome  string   `json:"outcome"`
	Reason   string   `json:"reason,omitempty"`
	Provider string   `json:"provider"`
}

type user struct {
	ID     string  `json:"id"`
	Email  string  `json:"email,omitempty"`
	Target *target `json:"target,omitempty"`
}

// target is the account that was asked for.
type target struct {
	Name string `json:"name"`
}

type source struct {
	IP string `json:"ip"`
}

type destination struct {
	Domain string `json:"domain"`
}

type rule struct {
	Name string `json:"name"`
	// Version is the revision of the policy, or its digest.
	Version string `json:"version,omitempty"`
}

type hallpassField struct {
	Log         string   `json:"log"`
	Issuer      string   `json:"issuer,omitempty"`
	CallerKind  string   `json:"caller_kind,omitempty"`
	Groups      []string `json:"groups,omitempty"`
	Environment string   `json:"environment,omitempty"`
	// Serial is text, because it can be larger than the numbers that JSON readers keep.
	Serial     string `json:"serial,omitempty"`
	ErrorKind  string `json:"error_kind,omitempty"`
	BreakGlass bool   `json:"break_glass,omitempty"`
	// Reviews are the review rules that ask people to look at the decision.
	Reviews     []string `json:"reviews,omitempty"`
	Redelivered bool     `json:"redelivered,omitempty"`
	// Detail is the event of the record in the JSON form of its protocol message.
	Detail json.RawMessage `json:"detail"`
	// Record is the exact bytes of the record, in base64: what the Merkle tree is made of.
	Record []byte `json:"record"`
}

// newEvent reads a record, with the identity snapshot that it cites, or nil.
func newEvent(logID string, stored, snapshot []byte) (Event, error) {
	r, err := audit.Parse(stored)
	if err != nil {
		return Event{}, err
	}
	m := r.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("event"))
	detail, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m.Get(field).Message().Interface())
	if err != nil {
		return Event{}, fmt.Errorf("record %d: %w", r.GetIndex(), err)
	}
	e := Event{
		Time: r.GetTime().AsTime(),
		ECS:  schema{schemaVersion},
		Event: eventFields{
			ID: place{r.GetEpoch(), r.GetIndex()}.id(logID), Sequence: r.GetIndex(), Kind: "event",
			Category: []string{"configuration"}, Type: []string{"info"}, Action: string(field.Name()), Outcome: "success", Provider: "hallpass",
		},
		Own: hallpassField{Log: logID, Detail: detail, Record: stored},
	}
	e.describe(r)
	if caller := audit.CallerOf(r); caller != nil {
		if err := e.name(caller, snapshot); err != nil {
			return Event{}, fmt.Errorf("record %d: %w", r.GetIndex(), err)
		}
	}
	if e.Message == "" {
		e.Message = strings.ReplaceAll(e.Event.Action, "_", " ")
	}
	return e, nil
}

// describe fills in what an event is about.
func (e *Event) describe(r *pb.Record) {
	switch ev := r.GetEvent().(type) {
	case *pb.Record_Decided:
		e.decided(r, ev.Decided)
	case *pb.Record_PolicyLoaded:
		e.Rule = &rule{Version: revisionOf(ev.PolicyLoaded.GetPolicy())}
		e.Message = "policy " + e.Rule.Version + " is in force"
	case *pb.Record_PolicyRefused:
		e.fail(ev.PolicyRefused.GetMessage())
	case *pb.Record_PolicyAccepted:
		e.Event.Reason = ev.PolicyAccepted.GetReason()
	case *pb.Record_Reviewed:
		e.Event.Category, e.Event.Reason = []string{"iam"}, ev.Reviewed.GetComment()
		e.Message = fmt.Sprintf("record %d was reviewed", ev.Reviewed.GetDecided())
		e.Source = sourceOf(ev.Reviewed.GetSourceIp())
	case *pb.Record_SignatureFailed:
		e.Event.Category = []string{"authentication"}
		e.fail(ev.SignatureFailed.GetMessage())
	case *pb.Record_AccessRefused:
		e.Event.Category = []string{"iam"}
		e.fail(ev.AccessRefused.GetRefusal().GetMessage())
		e.Own.ErrorKind = errorKind(ev.AccessRefused.GetRefusal())
		e.Source = sourceOf(ev.AccessRefused.GetSourceIp())
	case *pb.Record_RefusalsCounted, *pb.Record_StrangersCounted:
		e.Event.Category, e.Event.Outcome = []string{"authentication"}, "failure"
	case *pb.Record_SignInBound:
		e.Event.Category = []string{"authentication"}
	}
}

func (e *Event) decided(r *pb.Record, d *pb.Decided) {
	asked := d.GetAsked()
	what := asked.GetLogin() + "@" + asked.GetHost()
	e.Event.Category, e.Event.Action, e.Message = []string{"authentication"}, "certificate_granted", "certificate granted for "+what
	if refusal := d.GetRefusal(); refusal != nil {
		e.fail(refusal.GetMessage())
		e.Event.Action, e.Message, e.Own.ErrorKind = "certificate_refused", "certificate refused for "+what, errorKind(refusal)
	} else {
		e.Own.Serial = strconv.FormatUint(audit.Serial(r.GetEpoch(), r.GetIndex()), 10)
	}
	if host := asked.GetHost(); host != "" {
		e.Target = &destination{host}
	}
	if login := asked.GetLogin(); login != "" {
		e.User = &user{Target: &target{login}}
	}
	if name := d.GetDecision().GetRule(); name != "" || d.GetPolicy() != nil {
		e.Rule = &rule{Name: name, Version: revisionOf(d.GetPolicy())}
	}
	e.Source = sourceOf(asked.GetSourceIp())
	for _, rule := range d.GetReview().GetRules() {
		e.Own.Reviews = append(e.Own.Reviews, rule.GetName())
	}
	e.Own.Environment, e.Own.BreakGlass = d.GetDecision().GetEnvironment(), asked.GetBreakGlass()
}

func (e *Event) fail(reason string) { e.Event.Outcome, e.Event.Reason = "failure", reason }

// name says who the caller is.
func (e *Event) name(c *pb.Caller, snapshot []byte) error {
	var s pb.IdentitySnapshot
	if err := proto.Unmarshal(snapshot, &s); err != nil {
		return fmt.Errorf("read identity snapshot: %w", err)
	}
	if e.User == nil {
		e.User = &user{}
	}
	e.User.ID, e.User.Email = c.GetSubject(), s.GetEmail()
	e.Own.Issuer, e.Own.Groups = c.GetIssuer(), s.GetGroups()
	e.Own.CallerKind = strings.ToLower(strings.TrimPrefix(c.GetKind().String(), "CALLER_KIND_"))
	return nil
}

func sourceOf(ip string) *source {
	if ip == "" {
		return nil
	}
	return &source{ip}
}

func errorKind(r *pb.Refusal) string {
	return strings.ToLower(strings.TrimPrefix(r.GetKind().String(), "ERROR_KIND_"))
}

// revisionOf names a policy as people do.
func revisionOf(p *pb.PolicyRef) string {
	if p.GetRevision() != "" && !p.GetDirty() {
		return p.GetRevision()
	}
	return hex.EncodeToString(p.GetDigest())
}
