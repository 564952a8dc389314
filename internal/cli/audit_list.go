package cli

import (
	"encoding/csv"
	"fmt"
	"io"
	"strings"
	"time"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
)

// formsAnnotation names the forms of a result that a command has besides text and json.
const formsAnnotation = "hallpass-forms"

func (a *app) auditListCommand() *cobra.Command {
	var (
		filter recordFilter
		limit  uint32
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List records, newest first",
		Long: `List records, newest first. Several values of a flag mean any of them, several flags mean all of them. The index of the log
answers fields; a pattern of hosts, a network and --where are asked of each record that the fields let through.

Without a role that reads the log, the records are those about you. With -o json the result is one JSON array; -o csv has a line
for each record, of which no field is a formula to a spreadsheet. For one JSON object a line: hallpass audit export.`,
		Example: `  hallpass audit list --since 24h
  hallpass audit list --person alice@example.com --decision denied --limit 0
  hallpass audit list --host '*.prod.example.com' --between 2026-11-01..2026-11-15 -o csv
  hallpass audit list --where 'record.break_glass || record.login == "root"'`,
		Args:        filter.args,
		Annotations: map[string]string{formsAnnotation: "csv"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := filter.read(cmd, time.Now())
			if err != nil {
				return err
			}
			p, err := a.openPager(cmd.Context())
			if err != nil {
				return err
			}
			defer p.close()
			out := a.recordWriter()
			if err := p.each(cmd.Context(), q, int(limit), func(e *pb.Entry) error {
				record, err := newRecordJSON(e)
				if err != nil {
					return err
				}
				return out.write(record)
			}); err != nil {
				return err
			}
			return out.end()
		},
	}
	filter.flags(cmd)
	cmd.Flags().Uint32Var(&limit, "limit", 50, "at most this many records; 0 for all")
	return cmd
}

// recordWriter writes records in a form, as they come.
type recordWriter interface {
	write(recordJSON) error
	end() error
}

func (a *app) recordWriter() recordWriter {
	switch a.output {
	case "json":
		return &recordArray{w: a.out}
	case "csv":
		return newRecordCSV(a.out)
	}
	return a.newRecordTable()
}

// recordTable is one line for each record. On a terminal, a line that is too long is cut.
type recordTable struct {
	w     io.Writer
	width int
	begun bool
}

func (a *app) newRecordTable() *recordTable {
	return &recordTable{w: a.out, width: terminalWidth(a.out)}
}

func (t *recordTable) header() error {
	if t.begun {
		return nil
	}
	t.begun = true
	return t.line(bold(t.w, cut(recordHeader, t.width)))
}

func (t *recordTable) line(text string) error {
	if _, err := fmt.Fprintln(t.w, text); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

func (t *recordTable) write(r recordJSON) error {
	if err := t.header(); err != nil {
		return err
	}
	return t.line(cut(r.line(), t.width))
}

func (t *recordTable) end() error { return t.header() }

// cut shortens text to so many columns; 0 for as many as it has.
func cut(text string, columns int) string {
	runes := []rune(text)
	if columns <= 0 || len(runes) <= columns {
		return text
	}
	return string(runes[:max(columns-1, 0)]) + "…"
}

// recordArray is one JSON array.
type recordArray struct {
	w     io.Writer
	begun bool
}

func (r *recordArray) write(record recordJSON) error {
	var text strings.Builder
	if err := writeJSON(&text, record, "  ", "  "); err != nil {
		return err
	}
	before := "[\n  "
	if r.begun {
		before = ",\n  "
	}
	r.begun = true
	if _, err := io.WriteString(r.w, before+strings.TrimSuffix(text.String(), "\n")); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

func (r *recordArray) end() error {
	text := "\n]\n"
	if !r.begun {
		text = "[]\n"
	}
	if _, err := io.WriteString(r.w, text); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// recordCSV is one line for each record, as RFC 4180 has them.
type recordCSV struct {
	w     *csv.Writer
	begun bool
}

func newRecordCSV(w io.Writer) *recordCSV {
	c := csv.NewWriter(w)
	c.UseCRLF = true
	return &recordCSV{w: c}
}

// csvColumns are those of a table of records. Columns are added at the end.
var csvColumns = []struct {
	name  string
	value func(recordJSON) string
}{
	{"record", func(r recordJSON) string { return r.Index }},
	{"time", func(r recordJSON) string { return r.Time.Format(time.RFC3339) }},
	{"event", func(r recordJSON) string { return r.Event }},
	{"who", func(r recordJSON) string { return r.Who }},
	{"decision", func(r recordJSON) string { return r.Outcome }},
	{"login", func(r recordJSON) string { return r.Login }},
	{"host", func(r recordJSON) string { return r.Host }},
	{"environment", func(r recordJSON) string { return r.Environment }},
	{"rule", func(r recordJSON) string { return r.Rule }},
	{"policy", func(r recordJSON) string { return r.Policy }},
	{"serial", func(r recordJSON) string { return r.Serial }},
	{"source", func(r recordJSON) string { return r.Source }},
	{"reason", func(r recordJSON) string { return r.Reason }},
	{"message", func(r recordJSON) string { return r.Message }},
	{"reviews", func(r recordJSON) string { return strings.Join(r.Reviews, " ") }},
}

func (c *recordCSV) header() error {
	if c.begun {
		return nil
	}
	c.begun = true
	var names []string
	for _, column := range csvColumns {
		names = append(names, column.name)
	}
	return c.w.Write(names)
}

func (c *recordCSV) write(r recordJSON) error {
	if err := c.header(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	var fields []string
	for _, column := range csvColumns {
		fields = append(fields, noFormula(plain(column.value(r))))
	}
	if err := c.w.Write(fields); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

func (c *recordCSV) end() error {
	err := c.header()
	c.w.Flush()
	if err == nil {
		err = c.w.Error()
	}
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// noFormula makes sure that no spreadsheet takes a field for a formula: a quote before it says that it is text. What a caller asks
// for ends up here, and whoever opens the file is an auditor. Full-width signs count, and so do blanks before.
func noFormula(field string) string {
	if text := strings.TrimLeft(field, " \u00a0\u3000\n"); text != "" && strings.ContainsAny(string([]rune(text)[:1]), "=+-@\t\r＝＋－＠") {
		return "'" + field
	}
	return field
}
