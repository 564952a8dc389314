package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
)

// exportWindow is how many records of the log are gone through at once: they are listed newest first and written oldest first.
const exportWindow = 5000

// exportOptions are the flags of export.
type exportOptions struct {
	filter recordFilter
	from   uint64
	out    string
	resume bool
	raw    bool
}

func (a *app) auditExportCommand() *cobra.Command {
	o := &exportOptions{}
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write records as JSON lines, oldest first",
		Long: `Write the records that there are now, or those that fit the flags of hallpass audit list, as JSON: one object a line, the oldest
first, the same as hallpass audit show -o json. With --out into a file, which must be new; --resume goes on in a file that an
earlier export began, at the record after the last whole line. If the log was restored from a backup which has that record no more,
it refuses: then export to a new file. --raw adds the exact bytes of each record, which are what the hashes of the log are of, and of
the identity snapshot.`,
		Example: "  hallpass audit export --out records.jsonl\n  hallpass audit export --out records.jsonl --resume\n  hallpass audit export --from 5000 --environment prod",
		Args:    o.filter.args,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := o.filter.read(cmd, time.Now())
			if err != nil {
				return err
			}
			if o.resume && o.out == "" {
				return usageError(cmd, errors.New("--resume goes on in a file: name it with --out"))
			}
			return a.auditExport(cmd.Context(), o, q)
		},
	}
	o.filter.flags(cmd)
	cmd.Flags().Uint64Var(&o.from, "from", 0, "begin with the record at this index")
	cmd.Flags().StringVar(&o.out, "out", "", "write to this file, which must not be there yet")
	cmd.Flags().BoolVar(&o.resume, "resume", false, "go on in the file of --out")
	cmd.Flags().BoolVar(&o.raw, "raw", false, "add the exact bytes of each record, in base64")
	return cmd
}

func (a *app) auditExport(ctx context.Context, o *exportOptions, q *pb.ListRecordsRequest) (err error) {
	out, from := io.Writer(a.out), o.from
	var before reading
	if o.out != "" {
		file, read, err := openExport(o.out, o.resume)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out, before, from = file, read, max(from, read.next)
	}
	p, err := a.openPager(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.checkExport(ctx, o.out, before); err != nil {
		return err
	}
	newest, err := p.list(ctx, &pb.ListRecordsRequest{PageSize: 1, Scope: q.GetScope()})
	if err != nil || len(newest.GetEntries()) == 0 {
		return err
	}
	last, err := indexOf(newest.GetEntries()[0])
	if err != nil {
		return err
	}
	w, written := bufio.NewWriter(out), 0
	for ; from <= last; from += exportWindow {
		n, err := p.exportWindow(ctx, w, o, q, from, min(from+exportWindow, last+1))
		if written += n; err != nil {
			return errors.Join(err, w.Flush())
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
	}
	if o.out != "" {
		a.note("%s written to %s", plural(written, "record"), o.out)
	}
	return nil
}

// checkExport refuses to go on in a file of which the log lost records: nobody could tell them from those that are in their place.
func (p *pager) checkExport(ctx context.Context, name string, before reading) error {
	if before.next == 0 {
		return nil
	}
	var parted *parting
	err := p.again(ctx, func() (err error) {
		parted, err = before.parted(ctx, p.conn, p.who)
		return err
	})
	if parted == nil || err != nil {
		return err
	}
	return &failure{exit: exitFailed,
		err: fmt.Errorf("go on in %s: the CA restored its log from a backup on %s, and the log lost records that the file has: record %d of epoch %d, the last one, is not in it any more",
			name, parted.restore.Time.Format(time.RFC3339), before.next-1, before.last()),
		hint: "export to a new file, and keep this one, which has what the log lost: hallpass audit export --out FILE"}
}

// exportWindow writes the records from one index on and before another.
func (p *pager) exportWindow(ctx context.Context, w io.Writer, o *exportOptions, of *pb.ListRecordsRequest, from, before uint64) (int, error) {
	q, ok := proto.Clone(of).(*pb.ListRecordsRequest)
	if !ok {
		return 0, errors.New("copy a request")
	}
	q.From, q.PageToken = from, strconv.FormatUint(before, 10)
	var entries []*pb.Entry
	if err := p.each(ctx, q, 0, func(e *pb.Entry) error {
		entries = append(entries, e)
		return nil
	}); err != nil {
		return 0, err
	}
	for i, e := range slices.Backward(entries) {
		record, err := newRecordJSON(e)
		if err != nil {
			return len(entries) - 1 - i, err
		}
		line := exportJSON{recordJSON: record}
		if o.raw {
			line.Raw, line.Snapshot = e.GetRecord(), e.GetSnapshot()
		}
		if err := writeJSON(w, line, "", ""); err != nil {
			return len(entries) - 1 - i, err
		}
	}
	return len(entries), nil
}

// exportJSON is a line of an export.
type exportJSON struct {
	recordJSON
	// Raw is the record as it is stored and hashed, Snapshot the identity snapshot that it cites.
	Raw      []byte `json:"raw,omitempty"`
	Snapshot []byte `json:"snapshot,omitempty"`
}

func indexOf(e *pb.Entry) (uint64, error) {
	var r pb.Record
	if err := proto.Unmarshal(e.GetRecord(), &r); err != nil {
		return 0, fmt.Errorf("read a record of the log: %w", err)
	}
	return r.GetIndex(), nil
}

// openExport makes a file, or opens one to go on in it, without a line that is not whole. It returns how far the log was read into it.
func openExport(name string, resume bool) (*os.File, reading, error) {
	if !resume {
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return nil, reading{}, &failure{exit: exitFailed, err: fmt.Errorf("%s exists", name), hint: "hallpass audit export --resume --out " + name}
		}
		return file, reading{}, err
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, reading{}, err
	}
	end, read, err := endOfExport(file)
	if err == nil && end == 0 {
		err = beginsAsExport(file)
	}
	if err == nil {
		err = file.Truncate(end)
	}
	if err == nil {
		_, err = file.Seek(end, io.SeekStart)
	}
	if err != nil {
		return nil, reading{}, errors.Join(fmt.Errorf("go on in %s: %w", name, err), file.Close())
	}
	return file, read, nil
}

// beginsAsExport says whether what a file begins with is the begin of a record, as far as it goes: what is cut away must be our own.
func beginsAsExport(file *os.File) error {
	const record = `{"index":`
	begin := make([]byte, len(record))
	n, err := file.ReadAt(begin, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(begin[:n]) != record[:n] {
		return errors.New("it has no record in it: name another file, or move this one away")
	}
	return nil
}

// endOfExport returns where the last whole line ends, and how far the log was read by then.
func endOfExport(file *os.File) (end int64, read reading, err error) {
	last, end, err := lastLine(file)
	if err != nil || last == nil {
		return end, reading{}, err
	}
	var record recordJSON
	if err := json.Unmarshal(last, &record); err != nil {
		return 0, reading{}, fmt.Errorf("its last line is no record: %w", err)
	}
	index, err := strconv.ParseUint(record.Index, 10, 64)
	if err != nil {
		return 0, reading{}, fmt.Errorf("its last line is no record: %w", err)
	}
	return end, reading{}.and(index, record.Epoch), nil
}

// lastLine returns the last line that ends, nil if none does, and where it ends.
func lastLine(file *os.File) (line []byte, end int64, err error) {
	r := bufio.NewReader(file)
	for {
		text, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return line, end, nil
		}
		if err != nil {
			return nil, 0, err
		}
		line, end = bytes.TrimSpace(text), end+int64(len(text))
	}
}
