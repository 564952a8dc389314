package audit

import (
	"encoding/hex"
	"strings"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// Field is something that records are looked up by. Its numbers are part of the index and never change.
type Field byte

// The fields. What a record lacks it is not listed under.
const (
	// FieldEvent is the name of what happened, as in the protocol: "decided", "policy_loaded".
	FieldEvent Field = iota + 1
	// FieldSubject is the subject of the caller, of whatever issuer.
	FieldSubject
	// FieldLogin and FieldHost are what was asked for, the host as HostName writes it.
	FieldLogin
	FieldHost
	// FieldEnvironment is that of the host.
	FieldEnvironment
	// FieldDecision is "granted", or the kind of the refusal: "denied", "needs", ...
	FieldDecision
	// FieldRule is the rule that decided.
	FieldRule
	// FieldPolicy is the digest, in hexadecimal, of the policy that decided, or that was loaded.
	FieldPolicy
	// FieldSource is the address that a call came from.
	FieldSource
	// FieldReview is ReviewAsked, for a decision that asks for review.
	FieldReview
)

// ReviewAsked is the only value of FieldReview.
const ReviewAsked = "asked"

// Granted is the value of FieldDecision for a certificate.
const Granted = "granted"

// A Term is a field and its value, hashed. Two values may have one term: whoever finds a record by a term looks whether it fits.
type Term uint32

// TermOf returns the term of a value: FNV-1a of the number of the field and the value.
func TermOf(f Field, value string) Term {
	const offset, prime = 2166136261, 16777619
	h := (uint32(offset) ^ uint32(f)) * prime
	for i := range len(value) {
		h = (h ^ uint32(value[i])) * prime
	}
	return Term(h)
}

// Terms returns what a record that Parse returned is looked up by. The email of a caller is not among it: that is in the identity
// snapshot, which may be erased, and must not live on in an index.
func Terms(r *pb.Record) []Term {
	terms := make([]Term, 0, 10)
	for f := FieldEvent; f <= FieldReview; f++ {
		if value := Value(r, f); value != "" {
			terms = append(terms, TermOf(f, value))
		}
	}
	return terms
}

// Value returns what a record has in a field; empty for none.
func Value(r *pb.Record, f Field) string {
	switch f {
	case FieldEvent:
		return EventName(r)
	case FieldSubject:
		return CallerOf(r).GetSubject()
	case FieldLogin:
		return r.GetDecided().GetAsked().GetLogin()
	case FieldHost:
		return HostName(r.GetDecided().GetAsked().GetHost())
	case FieldEnvironment:
		return r.GetDecided().GetDecision().GetEnvironment()
	case FieldDecision:
		return DecisionOf(r)
	case FieldRule:
		return r.GetDecided().GetDecision().GetRule()
	case FieldPolicy:
		return hex.EncodeToString(PolicyOf(r).GetDigest())
	case FieldSource:
		if d := r.GetDecided(); d != nil {
			return d.GetAsked().GetSourceIp()
		}
		if reviewed := r.GetReviewed(); reviewed != nil {
			return reviewed.GetSourceIp()
		}
		return r.GetAccessRefused().GetSourceIp()
	case FieldReview:
		if AsksReview(r) {
			return ReviewAsked
		}
	}
	return ""
}

// HostName is how a host is written where hosts are compared: in lower case, without the dot that ends it.
func HostName(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// EventName is the name of what happened, as in the protocol; empty for nothing.
func EventName(r *pb.Record) string {
	switch r.GetEvent().(type) {
	case *pb.Record_Decided: // nearly all are
		return "decided"
	case nil:
		return ""
	}
	m := r.ProtoReflect()
	return string(m.WhichOneof(m.Descriptor().Oneofs().ByName("event")).Name())
}

// DecisionOf says how a request or a call ended; empty if the record is about neither.
func DecisionOf(r *pb.Record) string {
	refusal := r.GetAccessRefused().GetRefusal()
	if d := r.GetDecided(); d != nil {
		if refusal = d.GetRefusal(); refusal == nil {
			return Granted
		}
	}
	if refusal == nil {
		return ""
	}
	return KindName(refusal.GetKind())
}

// KindName is the word for a kind of error: "denied".
func KindName(k pb.ErrorKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "ERROR_KIND_"))
}

// PolicyOf returns the policy that a record names, or nil.
func PolicyOf(r *pb.Record) *pb.PolicyRef {
	switch e := r.GetEvent().(type) {
	case *pb.Record_Decided:
		return e.Decided.GetPolicy()
	case *pb.Record_AccessRefused:
		return e.AccessRefused.GetPolicy()
	case *pb.Record_PolicyLoaded:
		return e.PolicyLoaded.GetPolicy()
	}
	return nil
}

// EventNames are all that EventName returns.
func EventNames() []string {
	var names []string
	fields := (&pb.Record{}).ProtoReflect().Descriptor().Oneofs().ByName("event").Fields()
	for i := range fields.Len() {
		names = append(names, string(fields.Get(i).Name()))
	}
	return names
}

// DecisionNames are all that DecisionOf returns.
func DecisionNames() []string {
	names := []string{Granted}
	for k := pb.ErrorKind_ERROR_KIND_INVALID; pb.ErrorKind_name[int32(k)] != ""; k++ {
		names = append(names, KindName(k))
	}
	return names
}
