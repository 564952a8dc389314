package tokens_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/fixture/stack"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// send sends a request in any form.
func send(t *testing.T, conn *grpc.ClientConn, who client.SignIn, signed, blob []byte) (*ssh.Certificate, error) {
	t.Helper()
	answer, err := pb.NewCertificateServiceClient(conn).Issue(stack.Bearer(t.Context(), who.Token), &pb.IssueRequest{Request: signed, Sshsig: blob})
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePublicKey(answer.GetCertificate())
	if err != nil {
		t.Fatal(err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		t.Fatalf("answered with a %s", key.Type())
	}
	return cert, nil
}

// The same bytes give the same certificate but for the signature, for people and for jobs, also after a restart of the daemon.
func TestTheSameBytesGiveTheSameSerial(t *testing.T) {
	s := stack.Start(t, rules)
	for _, who := range []client.SignIn{s.Login("alice").SignIn, s.Device("bob").SignIn, s.Workload("ci").SignIn} {
		signed, blob := stack.Sign(t, who, ca.RequestNamespace, stack.Request(who))
		first, err := send(t, s.Dial(), who, signed, blob)
		if err != nil {
			t.Fatal(err)
		}
		s.Stop()
		s.Run()
		second, err := send(t, s.Dial(), who, signed, blob)
		if err != nil {
			t.Fatalf("the same bytes again: %v", err)
		}
		if first.Serial != second.Serial || !bytes.Equal(first.Nonce, second.Nonce) || first.KeyId != second.KeyId {
			t.Errorf("the same bytes gave serial %d, then %d", first.Serial, second.Serial)
		}
	}
	issued := 0
	for _, r := range s.Records() {
		if len(r.GetDecided().GetToBeSigned()) > 0 {
			issued++
		}
	}
	if issued != 3 {
		t.Errorf("the log has %d certificates for 3 requests that were sent twice", issued)
	}
}

// Another request under a nonce that was used gets nothing, and neither does somebody else's copy of a request.
func TestANonceServesOneRequest(t *testing.T) {
	s := stack.Start(t, rules)
	conn, who := s.Dial(), s.Login("alice").SignIn
	request := stack.Request(who)
	signed, blob := stack.Sign(t, who, ca.RequestNamespace, request)
	if _, err := send(t, conn, who, signed, blob); err != nil {
		t.Fatal(err)
	}
	request.Reason = "something else"
	other, otherBlob := stack.Sign(t, who, ca.RequestNamespace, request)
	if _, err := send(t, conn, who, other, otherBlob); status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "nonce") {
		t.Errorf("another request with a used nonce: got %v, want Aborted, about the nonce", err)
	}
	if _, err := send(t, conn, s.Login("bob").SignIn, signed, blob); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a copy of alice's request with bob's token: got %v, want Unauthenticated", err)
	}
	if _, err := send(t, conn, who, signed, otherBlob); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a request with the signature of another: got %v, want Unauthenticated", err)
	}
	var kinds []pb.ErrorKind
	for _, r := range s.Records() {
		if refusal := r.GetDecided().GetRefusal(); refusal != nil {
			kinds = append(kinds, refusal.GetKind())
		}
	}
	want := []pb.ErrorKind{pb.ErrorKind_ERROR_KIND_CONFLICT, pb.ErrorKind_ERROR_KIND_UNAUTHENTICATED, pb.ErrorKind_ERROR_KIND_UNAUTHENTICATED}
	if !slices.Equal(kinds, want) {
		t.Errorf("the log has refusals of kinds %v, want %v", kinds, want)
	}
}

// A certificate for staging names neither the authority nor the principals of production, whatever is asked.
func TestAStagingCertificateIsNoProductionCertificate(t *testing.T) {
	s := stack.Start(t, rules)
	c, bob := s.Client(), s.Login("bob")
	found, err := c.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	authority := map[string]string{}
	for _, k := range found.GetUserCaKeys() {
		authority[string(k.GetPublicKey())] = k.GetAuthority()
	}
	certs := map[string]*ssh.Certificate{}
	for name, host := range map[string]string{"default": "app1.staging.example.com", "prod": "db1.prod.example.com"} {
		issued, err := c.Issue(t.Context(), bob.SignIn, ca.Request{Login: "deploy", Host: host})
		if err != nil {
			t.Fatal(err)
		}
		certs[name] = issued.Certificate
		if got := authority[string(issued.Certificate.SignatureKey.Marshal())]; got != name {
			t.Errorf("%s: signed by %q, want %q", host, got, name)
		}
	}
	if got := certs["default"].ValidPrincipals; !slices.Equal(got, []string{"deploy"}) {
		t.Errorf("staging: principals %v", got)
	}
	if got := certs["prod"].ValidPrincipals; !slices.Equal(got, []string{"deploy@prod"}) {
		t.Errorf("production: principals %v", got)
	}
	_, err = c.Issue(t.Context(), s.Login("alice").SignIn, ca.Request{Login: "deploy", Host: "db1.prod.example.com"})
	refused(t, "a developer asks for production", err, ca.Denied, "")
}
