package daemon_test

import (
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/daemon"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// BenchmarkObserve measures what the metrics add to one certificate: each of its steps, its outcome and its call.
func BenchmarkObserve(b *testing.B) {
	core, served := daemon.Observers()
	issued := &ca.Issued{Decision: ca.Decision{Environment: ca.Environment{Name: "staging", Authority: "default"}}}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			began := time.Now()
			for step := range ca.Steps {
				core.Step(b.Context(), ca.Step(step), time.Now())
			}
			core.Issue(b.Context(), began, issued, nil)
			served.End(b.Context(), pb.CertificateService_Issue_FullMethodName, "", "OK")
		}
	})
}
