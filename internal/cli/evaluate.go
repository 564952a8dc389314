package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/internal/audit/verify"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// evaluator makes recorded decisions again, for package verify, which must not know how.
type evaluator struct {
	ctx context.Context //nolint:containedctx // the life of one verification, whose functions take none
	// blob returns what the log has under a digest; nil if it has nothing.
	blob func(digest [32]byte) ([]byte, error)

	mu         sync.Mutex // guards what follows
	policies   map[[32]byte]func() (*policy.Policy, error)
	identities map[[32]byte]ca.Identity // by the digests of their snapshots
}

const (
	// maxIdentities is how many identities are kept: people come again and again.
	maxIdentities = 10_000
	// maxPolicies is how many compiled policies are. Of those with thousands of rules each takes some 70 MB, and there is one after another.
	maxPolicies = 8
)

func newEvaluator(ctx context.Context, blob func([32]byte) ([]byte, error)) *evaluator {
	return &evaluator{ctx: ctx, blob: blob, policies: map[[32]byte]func() (*policy.Policy, error){}, identities: map[[32]byte]ca.Identity{}}
}

// evaluate implements verify.Source.
func (e *evaluator) evaluate(r *pb.Record) error {
	if loaded := r.GetPolicyLoaded(); loaded != nil {
		_, err := e.policy(loaded.GetPolicy())
		return err
	}
	if r.GetDecided() == nil {
		return e.identify(audit.CallerOf(r))
	}
	was := audit.Recorded(r)
	before := was.Decision.Outcome == 0 // refused before a policy was asked
	ref := r.GetDecided().GetPolicy()
	if ref == nil {
		ref = r.GetDecided().GetReview().GetPolicy()
	}
	if before && ref == nil {
		return e.identify(r.GetDecided().GetCaller())
	}
	p, err := e.policy(ref)
	if err != nil {
		return err
	}
	question, err := e.question(r.GetDecided())
	if errors.Is(err, audit.ErrErased) {
		return verify.ErrErased
	}
	if err != nil {
		return err
	}
	var found []policy.Difference
	if before {
		found = p.ReproduceReview(e.ctx, question, was)
	} else {
		again := p.Reproduce(e.ctx, question, was)
		if found = again.Differences; again.Result == policy.NotAsked {
			return verify.ErrNotAsked
		}
	}
	if len(found) == 0 {
		return nil
	}
	var differences []string
	for _, d := range found {
		if d.What == "certificate" {
			differences = append(differences, "its certificate is not what the decision leads to: "+d.Recorded)
			continue
		}
		differences = append(differences, fmt.Sprintf("%s %q is recorded, %q follows from the policy", d.What, d.Recorded, d.Now))
	}
	return fmt.Errorf("it does not follow from the policy that it names: %s", strings.Join(differences, "; "))
}

// identify holds the caller of a record that is no decision of the policy against the identity that the record cites.
func (e *evaluator) identify(c *pb.Caller) error {
	if c == nil {
		return nil
	}
	id, err := e.identity(c)
	if errors.Is(err, audit.ErrErased) {
		return verify.ErrErased
	}
	if err != nil {
		return err
	}
	return audit.CheckCaller(c, id)
}

// identity returns the one that a caller is said to have.
func (e *evaluator) identity(c *pb.Caller) (ca.Identity, error) {
	if len(c.GetSnapshot()) != 32 {
		return ca.Identity{}, errors.New("it cites no identity")
	}
	digest := [32]byte(c.GetSnapshot())
	e.mu.Lock()
	id, known := e.identities[digest]
	e.mu.Unlock()
	if known {
		return id, nil
	}
	snapshot, err := e.blob(digest)
	if err != nil {
		return id, err
	}
	if id, err = audit.CitedIdentity(c, snapshot); err != nil {
		return id, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.identities) >= maxIdentities {
		clear(e.identities)
	}
	e.identities[digest] = id
	return id, nil
}

// question is what the policy was asked.
func (e *evaluator) question(d *pb.Decided) (ca.Question, error) {
	id, err := e.identity(d.GetCaller())
	if err != nil {
		return ca.Question{}, err
	}
	lists, err := e.cited(d.GetLists())
	if err != nil {
		return ca.Question{}, err
	}
	return audit.QuestionOf(id, d, lists)
}

// cited returns a blob by its digest; nil for none.
func (e *evaluator) cited(digest []byte) ([]byte, error) {
	if len(digest) != 32 {
		return nil, nil
	}
	return e.blob([32]byte(digest))
}

// policy compiles the policy of a record, from the blobs of the log, once.
func (e *evaluator) policy(ref *pb.PolicyRef) (*policy.Policy, error) {
	if len(ref.GetDigest()) != 32 {
		return nil, errors.New("it names no policy")
	}
	digest := [32]byte(ref.GetDigest())
	e.mu.Lock()
	compile := e.policies[digest]
	if compile == nil {
		if len(e.policies) >= maxPolicies {
			clear(e.policies) // what is compiling goes on for those who wait
		}
		compile = sync.OnceValues(func() (*policy.Policy, error) { return e.compile(ref) })
		e.policies[digest] = compile
	}
	e.mu.Unlock()
	return compile()
}

func (e *evaluator) compile(ref *pb.PolicyRef) (*policy.Policy, error) {
	bundle, err := policy.ReadManifest(audit.PolicyRef(ref), func(digest [32]byte) ([]byte, error) {
		blob, err := e.blob(digest)
		if err == nil && blob == nil {
			err = errors.New("the log does not have it")
		}
		return blob, err
	})
	if err != nil {
		return nil, err
	}
	p, err := policy.Compile(bundle)
	if err != nil {
		return nil, fmt.Errorf("compile the policy %x: %w", ref.GetDigest(), err)
	}
	return p, nil
}

// derive says which facts follow from a record, in the words of package verify.
func derive(r *pb.Record) ([]verify.Fact, error) {
	facts, err := audit.Facts(r)
	if err != nil {
		return nil, err
	}
	return derived(facts), nil
}

// index says likewise which facts follow from many records together.
func index() func(*pb.Record) ([]verify.Fact, error) {
	var index audit.Index
	return func(r *pb.Record) ([]verify.Fact, error) { return indexed(&index, r) }
}

func indexed(index *audit.Index, r *pb.Record) ([]verify.Fact, error) {
	facts, err := index.Add(r)
	return derived(facts), err
}

func derived(facts []audit.Fact) []verify.Fact {
	out := make([]verify.Fact, len(facts))
	for i, f := range facts {
		out[i] = verify.Fact{Key: f.Key, Value: f.Value, Expires: f.Expires, Rule: rules[f.Rule]}
	}
	return out
}

var rules = map[audit.FactRule]verify.Rule{
	audit.New: verify.New, audit.Same: verify.Same, audit.Set: verify.Set, audit.Holds: verify.Holds,
	audit.Ends: verify.Ends,
}
