package cli

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"
)

func (a *app) auditShowCommand() *cobra.Command {
	var file string
	var f logFlags
	cmd := &cobra.Command{
		Use:     "show INDEX",
		Short:   "Show one record in full",
		Long:    "Show all that the log has about one record, on one screen: who asked for what, how it was decided, and what was signed.",
		Example: "  hallpass audit show 17\n  hallpass audit show 17 -o json\n  hallpass audit show 17 --log archive-2026.db",
		Args:    exactArgs("INDEX"),
		RunE: func(cmd *cobra.Command, args []string) error {
			index, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return usageError(cmd, fmt.Errorf("%q is not the index of a record", args[0]))
			}
			answer, err := a.getRecord(cmd, index, file, f)
			if err != nil {
				return err
			}
			record, err := newRecordJSON(answer.GetEntry())
			if err != nil {
				return err
			}
			mark, err := newMarkJSON(answer.GetReviewed())
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(struct {
					recordJSON
					Reviewed *recordJSON `json:"reviewed,omitempty"`
				}{record, mark})
			}
			if err := showEntry(a.out, answer.GetEntry(), record); err != nil {
				return err
			}
			now := time.Now()
			if file != "" {
				now = time.Time{} // whoever reviewed it later is not in the copy
			}
			return showReview(a.out, answer, mark, now)
		},
	}
	cmd.Flags().StringVar(&file, "log", "", "look into this copy or archive of the log instead of asking the CA")
	f.add(cmd)
	return cmd
}

// getRecord asks the CA for a record, or looks for it in a copy of the log.
func (a *app) getRecord(cmd *cobra.Command, index uint64, file string, f logFlags) (*pb.GetRecordResponse, error) {
	if file == "" {
		conn, who, err := a.dial(cmd.Context())
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		return conn.GetRecordAndReview(cmd.Context(), who, index)
	}
	key, err := a.logKey(cmd, f)
	if err != nil {
		return nil, err
	}
	log, err := bolt.OpenCopy(file, key)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	answer := &pb.GetRecordResponse{}
	if answer.Entry, err = provenEntry(cmd.Context(), log, index, file); err != nil {
		return nil, err
	}
	mark, err := store.ReviewOf(cmd.Context(), log, index)
	if err != nil || mark == nil {
		return answer, err
	}
	answer.Reviewed = &pb.Entry{Record: mark}
	return answer, nil
}

// sheet is a record as facts in sections.
type sheet struct {
	w       io.Writer
	section string // the heading that the next fact stands below
}

func (s *sheet) fact(name, value string) {
	if value == "" {
		return
	}
	if s.section != "" {
		fmt.Fprintf(s.w, "\n%s\n", bold(s.w, s.section))
		s.section = ""
	}
	value = strings.ReplaceAll(plain(value), "\n", "\n"+strings.Repeat(" ", 15))
	fmt.Fprintf(s.w, "  %-12s %s\n", name, value)
}

// showEntry writes a record for people.
func showEntry(w io.Writer, entry *pb.Entry, r recordJSON) error {
	var record pb.Record
	if err := proto.Unmarshal(entry.GetRecord(), &record); err != nil {
		return fmt.Errorf("read a record of the log: %w", err)
	}
	fmt.Fprintf(w, "%s  %s, %s\n", bold(w, "record "+r.Index), r.Event, r.Time.Format(time.RFC3339))
	s := &sheet{w: w}
	s.fact("outcome", r.Outcome)
	if d := record.GetDecided(); d == nil || d.GetRefusal() != nil {
		s.fact("message", r.Message)
	}
	s.fact("serial", r.Serial)
	if err := s.caller(&record, entry.GetSnapshot()); err != nil {
		return err
	}
	if d := record.GetDecided(); d != nil {
		s.request(d)
		s.decision(d)
		return s.certificate(d)
	}
	s.section = "More"
	if a := record.GetAccessRefused(); a != nil {
		s.fact("method", a.GetMethod())
		s.fact("from", a.GetSourceIp())
	}
	if e := record.GetReviewed(); e != nil {
		s.fact("of record", strconv.FormatUint(e.GetDecided(), 10))
		s.fact("comment", e.GetComment())
		s.fact("from", e.GetSourceIp())
	}
	if p := record.GetPolicyLoaded(); p != nil {
		s.fact("cause", p.GetCause())
		s.fact("digest", hex.EncodeToString(p.GetPolicy().GetDigest()))
		s.fact("engine", p.GetEngine())
		s.fact("author", p.GetCommit().GetAuthor())
		s.fact("subject", p.GetCommit().GetSubject())
	}
	if k := record.GetAuthorityKeyListed(); k != nil {
		if key, err := ssh.ParsePublicKey(k.GetPublicKey()); err == nil {
			s.fact("key", key.Type()+" "+ssh.FingerprintSHA256(key))
		}
		s.fact("source", k.GetSource())
	}
	if g := record.GetGenesis(); g != nil {
		s.fact("log", g.GetLogId())
		s.fact("public key", g.GetLogPublicKey())
	}
	return nil
}

func (s *sheet) caller(r *pb.Record, snapshot []byte) error {
	c := audit.CallerOf(r)
	if c == nil {
		return nil
	}
	var id pb.IdentitySnapshot
	if err := proto.Unmarshal(snapshot, &id); err != nil {
		return fmt.Errorf("read the identity of record %d: %w", r.GetIndex(), err)
	}
	s.section = "Who"
	if len(snapshot) == 0 {
		s.fact("note", "what else was known of this identity was erased")
	}
	s.fact("email", id.GetEmail())
	s.fact("kind", strings.ToLower(strings.TrimPrefix(c.GetKind().String(), "CALLER_KIND_")))
	s.fact("subject", c.GetSubject())
	s.fact("issuer", c.GetIssuer())
	s.fact("groups", strings.Join(id.GetGroups(), ", "))
	for _, claim := range id.GetClaims() {
		var value string
		switch v := claim.GetValue().(type) {
		case *pb.Claim_Bool:
			value = strconv.FormatBool(v.Bool)
		case *pb.Claim_Int:
			value = strconv.FormatInt(v.Int, 10)
		case *pb.Claim_String_:
			value = v.String_
		case *pb.Claim_Strings:
			value = strings.Join(v.Strings.GetValues(), ", ")
		}
		s.fact("claim", claim.GetName()+" = "+value)
	}
	token := r.GetDecided().GetToken()
	if token == nil {
		token = r.GetSignInBound().GetToken()
	}
	if token == nil {
		return nil
	}
	bound := "not bound to the key"
	if token.GetBound() {
		bound = "bound to the key"
	}
	s.fact("token", bound)
	if at := token.GetAuthTime(); at != nil {
		s.fact("signed in", at.AsTime().Format(time.RFC3339))
	}
	return nil
}

func (s *sheet) request(d *pb.Decided) {
	a := d.GetAsked()
	s.section = "Asked"
	s.fact("access", a.GetLogin()+"@"+a.GetHost())
	if a.GetTtl() != nil {
		s.fact("for", a.GetTtl().AsDuration().String())
	}
	s.fact("reason", a.GetReason())
	s.fact("rule", a.GetRule())
	if a.GetBreakGlass() {
		s.fact("break glass", "yes")
	}
	s.fact("from", a.GetSourceIp())
	s.fact("key", strings.TrimSpace(a.GetKeyType()+" "+fingerprint(a.GetKey())))
	if !d.GetProven() {
		s.fact("proof", "possession of the key was not shown")
	}
}

// fingerprint is that of a key of which the SHA-256 is known.
func fingerprint(digest []byte) string {
	if len(digest) == 0 {
		return ""
	}
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(digest)
}

func (s *sheet) decision(d *pb.Decided) {
	s.section = "Decided"
	if d.GetPolicy() == nil {
		s.fact("policy", "not asked")
		return
	}
	s.fact("rule", d.GetDecision().GetRule())
	s.fact("environment", d.GetDecision().GetEnvironment())
	s.fact("policy", policyName(d.GetPolicy()))
	s.fact("at", d.GetDecidedAt().AsTime().Format(time.RFC3339))
	s.fact("said", d.GetDecision().GetMessage())
	for _, need := range d.GetDecision().GetNeeds() {
		text := "a reason"
		if need.GetKind() == pb.NeedKind_NEED_KIND_FRESH_LOGIN {
			text = fmt.Sprintf("a sign-in within the last %s", need.GetLoginWithin().AsDuration())
		}
		s.fact("needed", text)
	}
	for _, f := range d.GetDecision().GetFailed() {
		s.fact("failed", strings.TrimPrefix(f.GetRule()+": "+f.GetMessage(), ": "))
	}
}

func (s *sheet) certificate(d *pb.Decided) error {
	if len(d.GetToBeSigned()) == 0 {
		return nil
	}
	cert, err := audit.ParseToBeSigned(d.GetToBeSigned())
	if err != nil {
		return err
	}
	s.section = "Signed"
	s.fact("authority", d.GetAuthority()+" "+ssh.FingerprintSHA256(cert.SignatureKey))
	s.fact("principals", strings.Join(cert.ValidPrincipals, ", "))
	s.fact("valid", fmt.Sprintf("%s to %s", certTime(cert.ValidAfter).UTC().Format(time.RFC3339), certTime(cert.ValidBefore).UTC().Format(time.RFC3339)))
	s.fact("key ID", cert.KeyId)
	for _, name := range slices.Sorted(maps.Keys(cert.CriticalOptions)) {
		s.fact("option", name+" "+cert.CriticalOptions[name])
	}
	s.fact("extensions", strings.Join(slices.Sorted(maps.Keys(cert.Extensions)), ", "))
	return nil
}
