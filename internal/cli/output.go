package cli

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

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
	return writeJSON(a.out, v, "", "  ")
}

// printJSONLine writes one of many results.
func (a *app) printJSONLine(v any) error {
	return writeJSON(a.out, v, "", "")
}

// writeJSON writes v and a line break. What a terminal would act on is escaped: encoding/json leaves C1 controls and the marks that
// rearrange a line as they are.
func writeJSON(w io.Writer, v any, prefix, indent string) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent(prefix, indent)
	err := e.Encode(v)
	if err == nil {
		_, err = w.Write(escapeControls(text.Bytes()))
	}
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// escapeControls returns the same JSON without what controls or formats beyond ASCII, which is in its strings alone.
func escapeControls(text []byte) []byte {
	acts := func(r rune) bool { return r >= 0x7f && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }
	if !bytes.ContainsFunc(text, acts) {
		return text
	}
	var out []byte
	for _, r := range string(text) {
		if !acts(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return out
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
