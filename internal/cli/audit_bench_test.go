package cli_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/audit"
	hallpassd "github.com/hallpass-ssh/hallpass/internal/daemon"
	"github.com/hallpass-ssh/hallpass/internal/fixture/seed"
)

// BenchmarkVerify checks a log as scripts/seed-log makes it, with each decision made again. HALLPASS_BENCH_RECORDS is how many records
// it has.
func BenchmarkVerify(b *testing.B) {
	n := uint64(20_000)
	if text := os.Getenv("HALLPASS_BENCH_RECORDS"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 40); err != nil {
			b.Fatal(err)
		}
	}
	dir := filepath.Join(b.TempDir(), "ca")
	if _, err := hallpassd.Init(b.Context(), hallpassd.InitParams{Dir: dir, Issuer: "https://id.example.com", ClientID: "hallpass", Listen: "127.0.0.1:0"}); err != nil {
		b.Fatal(err)
	}
	if err := seed.Fill(b.Context(), seed.Params{Dir: dir, Records: n}); err != nil {
		b.Fatal(err)
	}
	key, err := audit.LoadLogKey(filepath.Join(dir, "keys", "log"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if code, _, errs := run(b, "audit", "verify", filepath.Join(dir, "log.db"), "--public-key", key.Verifier()); code != 0 {
			b.Fatal(errs)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
