package cli

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"time"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// result is where the result of a run goes. It remembers the first error, so that no command ends well whose result was lost.
type result struct {
	file   *os.File
	failed error
}

func (r *result) Write(p []byte) (int, error) {
	n, err := r.file.Write(p)
	if r.failed == nil {
		r.failed = err
	}
	return n, err
}

// printJSON writes a result for machines: field names are stable, times are RFC 3339 in UTC, serials and indexes are strings.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// printJSONLine writes one of many results.
func (a *app) printJSONLine(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// clock shows a time to a person.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// left tells how long it is until t.
func left(t time.Time) string {
	d := time.Until(t).Round(time.Second)
	if d <= 0 {
		return "over"
	}
	return d.String() + " left"
}

// policyName is the revision of a policy, or its digest if it has none.
func policyName(ref *pb.PolicyRef) string {
	name := ref.GetRevision()
	if name == "" {
		name = hex.EncodeToString(ref.GetDigest())
	}
	if ref.GetDirty() {
		name += "+dirty"
	}
	return name
}
