package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"google.golang.org/protobuf/proto"
)

// refused stands for all decisions but those that granted.
const refused = "refused"

// maxValues is how many values a field of a filter may have: each is looked up.
const maxValues = 100

// filter reads which records are asked for. For what a condition fails, out is told when the filter is used.
func (s auditService) filter(ctx context.Context, in *pb.ListRecordsRequest, out *pb.ListRecordsResponse) (store.Filter, error) {
	f := store.Filter{Values: map[audit.Field][]string{}}
	for _, field := range []struct {
		name   string
		field  audit.Field
		values []string
		words  []string // those there are; nil if there is no end of them
	}{
		{"logins", audit.FieldLogin, in.GetLogins(), nil},
		{"environments", audit.FieldEnvironment, in.GetEnvironments(), nil},
		{"rules", audit.FieldRule, in.GetRules(), nil},
		{"decisions", audit.FieldDecision, withRefusals(in.GetDecisions()), audit.DecisionNames()},
		{"events", audit.FieldEvent, in.GetEvents(), audit.EventNames()},
		{"hosts", 0, in.GetHosts(), nil},
		{"sources", 0, in.GetSources(), nil},
		{"persons", 0, in.GetPersons(), nil},
		{"policies", 0, in.GetPolicies(), nil},
	} {
		if err := checkValues(field.name, field.values, field.words); err != nil {
			return f, err
		}
		if len(field.values) > 0 && field.field != 0 {
			f.Values[field.field] = field.values
		}
	}
	var conditions []func(*pb.Record) (bool, error)
	for _, add := range []func(*pb.ListRecordsRequest, *store.Filter) (func(*pb.Record) (bool, error), error){
		filterHosts, filterSources,
		func(in *pb.ListRecordsRequest, f *store.Filter) (func(*pb.Record) (bool, error), error) {
			return nil, s.filterPersons(ctx, in.GetPersons(), f)
		},
		func(in *pb.ListRecordsRequest, f *store.Filter) (func(*pb.Record) (bool, error), error) {
			return nil, s.filterPolicies(ctx, in.GetPolicies(), f)
		},
		func(in *pb.ListRecordsRequest, f *store.Filter) (func(*pb.Record) (bool, error), error) {
			return s.filterReviews(ctx, in.GetReview(), f)
		},
		func(in *pb.ListRecordsRequest, _ *store.Filter) (func(*pb.Record) (bool, error), error) {
			return s.where(ctx, in.GetWhere(), out)
		},
	} {
		condition, err := add(in, &f)
		if err != nil {
			return f, err
		}
		if condition != nil {
			conditions = append(conditions, condition)
		}
	}
	if len(conditions) > 0 {
		f.Match = all(conditions)
	}
	return f, nil
}

// withRefusals puts the kinds of refusals in the place of the word for all of them.
func withRefusals(decisions []string) []string {
	kinds := slices.DeleteFunc(audit.DecisionNames(), func(name string) bool { return name == audit.Granted })
	var all []string
	for _, d := range decisions {
		if d == refused {
			all = append(all, kinds...)
		} else {
			all = append(all, d)
		}
	}
	return all
}

// checkValues holds the values of a field to words, if they are given.
func checkValues(name string, values, words []string) error {
	if len(values) > maxValues {
		return ca.Errorf(ca.Invalid, "%s: %d values are more than %d", name, len(values), maxValues)
	}
	for _, v := range values {
		if v == "" {
			return ca.Errorf(ca.Invalid, "%s: an empty value", name)
		}
		if words != nil && !slices.Contains(words, v) {
			return ca.Errorf(ca.Invalid, "%s: there is no %q; there are %s", name, v, strings.Join(words, ", "))
		}
	}
	return nil
}

// all joins conditions, which are asked in their order.
func all(conditions []func(*pb.Record) (bool, error)) func(*pb.Record) (bool, error) {
	return func(r *pb.Record) (bool, error) {
		for _, c := range conditions {
			if fits, err := c(r); !fits || err != nil {
				return false, err
			}
		}
		return true, nil
	}
}

// filterHosts looks names up, and compares patterns.
func filterHosts(in *pb.ListRecordsRequest, f *store.Filter) (func(*pb.Record) (bool, error), error) {
	var hosts []string
	patterns := false
	for _, h := range in.GetHosts() {
		hosts = append(hosts, audit.HostName(h))
		patterns = patterns || strings.ContainsAny(h, "*?")
	}
	if !patterns {
		if len(hosts) > 0 {
			f.Values[audit.FieldHost] = hosts
		}
		return nil, nil
	}
	return func(r *pb.Record) (bool, error) {
		host := audit.Value(r, audit.FieldHost)
		return host != "" && slices.ContainsFunc(hosts, func(pattern string) bool { return matchesPattern(pattern, host) }), nil
	}, nil
}

// matchesPattern compares a text with a pattern in which * stands for any characters, and ? for any one.
func matchesPattern(pattern, text string) bool {
	star, mark, t := -1, 0, 0
	for p := 0; t < len(text) || p < len(pattern); {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && t < len(text) && (pattern[p] == '?' || pattern[p] == text[t]):
			p++
			t++
		case star >= 0 && mark < len(text): // let the last * take one more
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return true
}

// filterSources looks addresses up, and compares networks.
func filterSources(in *pb.ListRecordsRequest, f *store.Filter) (func(*pb.Record) (bool, error), error) {
	var addresses []string
	var networks []netip.Prefix
	for _, text := range in.GetSources() {
		if addr, err := netip.ParseAddr(text); err == nil {
			addr = addr.Unmap()
			addresses = append(addresses, addr.String())
			if addr.Zone() == "" {
				networks = append(networks, netip.PrefixFrom(addr, addr.BitLen()))
			}
			continue
		}
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, ca.Errorf(ca.Invalid, "sources: %q is neither an address nor a network such as 192.0.2.0/24", text)
		}
		if a := network.Addr(); a.Is4In6() && network.Bits() >= 96 {
			network = netip.PrefixFrom(a.Unmap(), network.Bits()-96)
		}
		networks = append(networks, network.Masked())
	}
	if len(addresses) == len(in.GetSources()) {
		if len(addresses) > 0 {
			f.Values[audit.FieldSource] = addresses
		}
		return nil, nil
	}
	return func(r *pb.Record) (bool, error) {
		source := audit.Value(r, audit.FieldSource)
		addr, err := netip.ParseAddr(source)
		return slices.Contains(addresses, source) || err == nil && slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) }), nil
	}, nil
}

// filterPersons finds out who is meant: each value is an email, or a subject.
func (s auditService) filterPersons(ctx context.Context, persons []string, f *store.Filter) error {
	for _, p := range persons {
		f.Callers = append(f.Callers, store.Caller{Subject: p})
		if !strings.Contains(p, "@") {
			continue
		}
		callers, err := s.directory.ByEmail(ctx, p)
		if err != nil {
			return err
		}
		f.Callers = append(f.Callers, callers...)
	}
	return nil
}

// filterPolicies finds out which policies are meant: each value is the beginning of a commit, or of a digest.
func (s auditService) filterPolicies(ctx context.Context, prefixes []string, f *store.Filter) error {
	for _, prefix := range prefixes {
		digests, err := store.PolicyDigests(ctx, s.cfg.Store, strings.ToLower(prefix))
		if err != nil {
			return err
		}
		if len(digests) == 0 {
			return ca.Errorf(ca.NotFound, "no policy was ever in force whose commit or digest begins with %q", prefix)
		}
		f.Values[audit.FieldPolicy] = append(f.Values[audit.FieldPolicy], digests...)
	}
	return nil
}

// where compiles the expression of a request.
func (s auditService) where(ctx context.Context, expression string, out *pb.ListRecordsResponse) (func(*pb.Record) (bool, error), error) {
	if expression == "" {
		return nil, nil
	}
	condition, err := s.cfg.Where(expression)
	if err != nil {
		return nil, ca.Errorf(ca.Invalid, "where: %v", err)
	}
	return func(r *pb.Record) (bool, error) {
		fits, failure, err := condition(ctx, r, func() ([]byte, error) { return s.snapshot(ctx, r) })
		if failure != "" {
			if out.Failed++; out.Failed == 1 {
				out.Failure = fmt.Sprintf("record %d: %s", r.GetIndex(), failure)
			}
		}
		return fits && failure == "", err
	}, nil
}

// snapshot returns the identity snapshot that a record cites, likewise.
func (s auditService) snapshot(ctx context.Context, r *pb.Record) ([]byte, error) {
	return s.cited(ctx, audit.CallerOf(r).GetSnapshot())
}

// isAbout tells whether a record is about an identity.
func isAbout(record []byte, id ca.Identity) (bool, error) {
	var r pb.Record
	if err := proto.Unmarshal(record, &r); err != nil {
		return false, &ca.Error{Kind: ca.Internal, Message: "parse record", Err: err}
	}
	c := audit.CallerOf(&r)
	return c != nil && c.GetIssuer() == id.Issuer && c.GetSubject() == id.Subject, nil
}
