package server_test

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	"github.com/hallpass-ssh/hallpass/internal/server"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// rules lets every developer and every job deploy on staging.
const rules = `version: 1
environments:
  staging: {hosts: ["*.staging.example.com"]}
allow:
- name: developers
  when: '"developers" in identity.groups'
  grant: {logins: [deploy], ttl: 2h, extensions: [permit-pty]}
- name: jobs
  when: identity.kind == "workload"
  grant: {logins: [deploy], ttl: 10m}
roles:
  auditor: '"security" in identity.groups'
  admin: '"ca-admins" in identity.groups'
`

// kind is a kind of caller.
type kind struct {
	name string
	// is are the words of the table that fit; none for a stranger and for a known identity that is refused everywhere.
	is     []string
	signIn func() client.SignIn
	// refused is the code for what may not be called.
	refused codes.Code
	known   bool
}

func kinds(s *stack.Stack) []kind {
	developer := func(groups ...string) func() client.SignIn {
		who := s.Forge("alice", map[string]any{"groups": append(groups, "developers")})
		return func() client.SignIn { return who }
	}
	token := func(token string) func() client.SignIn {
		return func() client.SignIn { return stack.As(token, nil, stack.NewKey(s.T())) }
	}
	return []kind{
		{"nobody", nil, token(""), codes.Unauthenticated, false},
		{"garbage", nil, token("garbage"), codes.Unauthenticated, false},
		{"a token that expired", nil, func() client.SignIn {
			return s.Forge("alice", map[string]any{"iat": time.Now().Add(-3 * time.Hour).Unix(), "exp": time.Now().Add(-time.Hour).Unix()})
		}, codes.Unauthenticated, false},
		{"a token for another audience", nil, func() client.SignIn {
			return s.Forge("alice", map[string]any{"aud": "other", "azp": "other"})
		}, codes.Unauthenticated, false},
		{"a person", []string{"person"}, developer(), codes.PermissionDenied, true},
		{"a person whose email is not verified", nil, func() client.SignIn { return s.Forge("mallory", nil) }, codes.PermissionDenied, true},
		{"a job", []string{"workload"}, func() client.SignIn { return s.Workload("ci").SignIn } /* serves once */, codes.PermissionDenied, true},
		{"an auditor", []string{"person", "auditor"}, developer("security"), codes.PermissionDenied, true},
		{"an admin", []string{"person", "admin"}, developer("ca-admins"), codes.PermissionDenied, true},
	}
}

// Every method of every service is called by every kind of caller: who gets through is what the table says, and what the log
// holds afterwards is what the table says.
func TestEveryMethodByEveryKindOfCaller(t *testing.T) {
	t.Parallel()
	s := stack.Start(t, rules)
	conn := s.Dial()
	allowed := server.Allowed()
	var want []string // refusals of known identities, in order
	strangers := 0
	for _, k := range kinds(s) {
		for _, method := range slices.Sorted(maps.Keys(allowed)) {
			who := k.signIn()
			err := invoke(t, conn, method, who)
			free := slices.Contains(allowed[method], "anybody")
			may := free || slices.ContainsFunc(k.is, func(word string) bool { return slices.Contains(allowed[method], word) })
			code := codes.OK
			switch {
			case !may:
				code = k.refused
			case method == pb.PolicyService_Accept_FullMethodName:
				code = codes.InvalidArgument // let in, and then asked which commit
			case method == pb.AuditService_GetBlob_FullMethodName:
				code = codes.NotFound
			case method == pb.AdminService_EraseIdentity_FullMethodName:
				code = codes.InvalidArgument // let in, and then asked whose
			case method == pb.AuditService_MarkReviewed_FullMethodName:
				code = codes.InvalidArgument // let in, and then asked for a comment
			}
			if status.Code(err) != code {
				t.Errorf("%s calls %s: got %v, want %s", k.name, method, err, code)
			}
			switch {
			case !k.known && !free:
				strangers++
			case !may && method == pb.CertificateService_Issue_FullMethodName:
				want = append(want, "Decided "+method)
			case !may && method != pb.CertificateService_DryRun_FullMethodName: // a dry run is not a decision
				want = append(want, "AccessRefused "+method)
			}
		}
	}
	got, counted := refusals(s.Records())
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refusals in the log (-want +got):\n%s", diff)
	}
	if counted != uint64(strangers) {
		t.Errorf("the log counts %d strangers, want %d", counted, strangers)
	}
}

// refusals returns the records of refusals and the number of strangers.
func refusals(records []*pb.Record) (refused []string, strangers uint64) {
	for _, r := range records {
		switch {
		case r.GetDecided().GetRefusal() != nil:
			refused = append(refused, "Decided "+pb.CertificateService_Issue_FullMethodName)
		case r.GetAccessRefused() != nil:
			refused = append(refused, "AccessRefused "+r.GetAccessRefused().GetMethod())
		}
		for _, count := range r.GetStrangersCounted().GetCounts() {
			strangers += count.GetCount()
		}
	}
	return refused, strangers
}

// invoke calls a method in good form and returns how it ended; a stream ends with its first message.
func invoke(t *testing.T, conn *grpc.ClientConn, method string, who client.SignIn) error {
	t.Helper()
	ctx := t.Context()
	if who.Token != "" {
		ctx = stack.Prove(t, who, method)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	descriptor, in, out := messages(t, method)
	switch m := in.(type) {
	case *pb.IssueRequest:
		m.Request, m.Sshsig = stack.Sign(t, who, ca.RequestNamespace, stack.Request(who))
	case *pb.DryRunRequest:
		m.Request, m.Sshsig = stack.Sign(t, who, ca.RequestNamespace, stack.Request(who))
	case *pb.ProveConsistencyRequest:
		m.OldSize = 1
	case *pb.GetBlobRequest:
		m.Digest = make([]byte, 32) // there is no such blob
	}
	if !descriptor.IsStreamingServer() {
		return conn.Invoke(ctx, method, in, out)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(in); err != nil && err != io.EOF { //nolint:errorlint // SendMsg returns it bare: the status is in RecvMsg
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(out)
}

// messages returns the descriptor of a method and an empty message of each of its types.
func messages(t *testing.T, method string) (protoreflect.MethodDescriptor, proto.Message, proto.Message) {
	t.Helper()
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		t.Fatal(err)
	}
	descriptor, ok := found.(protoreflect.MethodDescriptor)
	if !ok {
		t.Fatalf("%s is no method", name)
	}
	var made []proto.Message
	for _, d := range []protoreflect.MessageDescriptor{descriptor.Input(), descriptor.Output()} {
		kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, kind.New().Interface())
	}
	return descriptor, made[0], made[1]
}
