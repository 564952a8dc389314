package server

import (
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// callers is a set of the kinds of callers that may call a method.
type callers uint8

const (
	anybody  callers = 1 << iota // no login
	person                       // a human who signed in
	workload                     // a job with a token of its own
	auditor                      // a person with the role auditor of the policy in force
	admin                        // a person with the role admin
	nobody                       // not served
)

// method is a row of the table.
type method struct {
	callers callers
	// own: people without the role may call it too, about themselves.
	own bool
	// lasting: a stream without a deadline.
	lasting bool
	// records says what the log holds of a call: of a granted one, and of a refused one by a known identity.
	records string
}

// roles says which roles of the policy may call, for messages.
func (m method) roles() string {
	switch {
	case m.callers&auditor == 0:
		return "admin"
	case m.callers&admin == 0:
		return "auditor"
	}
	return "auditor or admin"
}

// methods is the one table of who may call what. A method without a row is refused, and a test that walks all services fails.
var methods = map[string]method{
	pb.CertificateService_Issue_FullMethodName:            {callers: person | workload, records: "Decided; Decided"},
	pb.CertificateService_DryRun_FullMethodName:           {callers: person | workload, records: "nothing: a dry run is not a decision"},
	pb.CertificateService_Discover_FullMethodName:         {callers: anybody, records: "nothing"},
	pb.CertificateService_ListEnvironments_FullMethodName: {callers: person | workload, records: "nothing; AccessRefused"},

	pb.AuditService_GetRecord_FullMethodName:      {callers: auditor | admin, own: true, records: "nothing; AccessRefused"},
	pb.AuditService_ListRecords_FullMethodName:    {callers: auditor | admin, own: true, records: "nothing; AccessRefused"},
	pb.AuditService_CountRecords_FullMethodName:   {callers: auditor | admin, own: true, records: "nothing; AccessRefused"},
	pb.AuditService_FollowRecords_FullMethodName:  {callers: auditor | admin, records: "nothing; AccessRefused", lasting: true},
	pb.AuditService_ListIdentities_FullMethodName: {callers: auditor | admin, records: "nothing; AccessRefused"},
	pb.AuditService_ProveRecord_FullMethodName:    {callers: auditor | admin, records: "nothing; AccessRefused"},
	pb.AuditService_GetBlob_FullMethodName:        {callers: auditor | admin, records: "nothing; AccessRefused"},
	pb.AuditService_ListReviews_FullMethodName:    {callers: auditor | admin, records: "nothing; AccessRefused"},
	pb.AuditService_MarkReviewed_FullMethodName:   {callers: auditor | admin, records: "Reviewed; AccessRefused"},
	// Hashes tell nothing of what is in the log, and whoever got a certificate has a checkpoint: all users hold the daemon to it.
	pb.AuditService_GetCheckpoint_FullMethodName:    {callers: person | workload, records: "nothing; AccessRefused"},
	pb.AuditService_ProveConsistency_FullMethodName: {callers: person | workload, records: "nothing; AccessRefused"},

	pb.PolicyService_ListRevisions_FullMethodName: {callers: auditor | admin, records: "nothing; AccessRefused"},
	pb.PolicyService_GetRevision_FullMethodName:   {callers: auditor | admin, records: "nothing; AccessRefused"},
	pb.PolicyService_Reload_FullMethodName:        {callers: admin, records: "PolicyLoaded, PolicyRefused or nothing new; AccessRefused"},
	pb.PolicyService_Accept_FullMethodName:        {callers: admin, records: "PolicyAccepted and PolicyLoaded; AccessRefused"},

	pb.AdminService_Backup_FullMethodName:        {callers: admin, records: "BackupTaken; AccessRefused", lasting: true},
	pb.AdminService_EraseIdentity_FullMethodName: {callers: admin, records: "IdentityErased or nothing new; AccessRefused"},

	healthpb.Health_Check_FullMethodName: {callers: anybody, records: "nothing"},
	healthpb.Health_List_FullMethodName:  {callers: anybody, records: "nothing"},
	healthpb.Health_Watch_FullMethodName: {callers: nobody, records: "nothing"},
}
