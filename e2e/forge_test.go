package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/audit"
	"github.com/hallpass-ssh/hallpass/store"
	"github.com/hallpass-ssh/hallpass/store/bolt"
	"github.com/rogpeppe/go-internal/testscript"
	"go.etcd.io/bbolt"
)

// hostileText is for a terminal (a title, a bell, the direction of writing, lines), a web page, and a spreadsheet.
const hostileText = "=1+1\x1b]0;owned\a\u202e\u009b2J<script>alert(1)</script>\r\n=2+2"

// forge is `forge FILE [hostile]`: whoever holds the key of the log, while the daemon is down, repeats the newest refusal in it with
// another answer of the policy, and perhaps with texts that the core would refuse. FILE gets the index of that record.
func forge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 || len(args) == 2 && args[1] != "hostile" {
		ts.Fatalf("usage: forge FILE [hostile]")
	}
	ctx := context.Background()
	dir := filepath.Join(ts.Getenv("STACK"), "ca")
	key, err := audit.LoadLogKey(filepath.Join(dir, "keys", "log"))
	ts.Check(err)
	log, err := bolt.Open(filepath.Join(dir, "log.db"), bolt.Config{LogKey: key})
	ts.Check(err)
	defer log.Close()
	size, err := log.Size(ctx)
	ts.Check(err)
	for index := size; index > 0; index-- {
		records, err := log.Records(ctx, index-1, 1)
		ts.Check(err)
		record, err := audit.Parse(records[0])
		ts.Check(err)
		d := record.GetDecided()
		if d.GetRefusal() == nil || d.GetPolicy() == nil {
			continue
		}
		snapshot, err := log.Blob(ctx, [32]byte(d.GetCaller().GetSnapshot()))
		ts.Check(err)
		q, err := audit.Question(d, snapshot, nil)
		ts.Check(err)
		was := audit.Recorded(record)
		decision := was.Decision
		decision.Outcome, decision.Rule, decision.Message = ca.NeedsMore, "developers-on-staging", "say why"
		decision.Needs = []ca.Need{{Kind: ca.NeedReason}}
		if len(args) == 2 {
			q.Request.Reason, decision.Message = hostileText, hostileText
		}
		forged, err := store.NewRecorder(log).Record(ctx, &ca.Attempt{
			Caller: ca.Caller{Identity: q.Identity, Token: q.Token}, Request: q.Request, Now: q.Now, Policy: was.Policy, Decision: decision,
			Refusal: &ca.Error{Kind: ca.Needs, Message: decision.Message, Needs: decision.Needs},
		}, nil)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strconv.FormatUint(forged, 10)), 0o600))
		return
	}
	ts.Fatalf("the log has no refusal by a policy")
}

// erase is `erase FILE`: what the policy saw of the caller of the record whose index is in FILE is erased from the log, while the
// daemon is down.
func erase(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: erase FILE")
	}
	index, err := strconv.ParseUint(ts.ReadFile(args[0]), 10, 64)
	ts.Check(err)
	dir := filepath.Join(ts.Getenv("STACK"), "ca")
	key, err := audit.LoadLogKey(filepath.Join(dir, "keys", "log"))
	ts.Check(err)
	log, err := bolt.Open(filepath.Join(dir, "log.db"), bolt.Config{LogKey: key})
	ts.Check(err)
	records, err := log.Records(context.Background(), index, 1)
	ts.Check(err)
	ts.Check(log.Close())
	record, err := audit.Parse(records[0])
	ts.Check(err)
	db, err := bbolt.Open(filepath.Join(dir, "log.db"), 0o600, nil)
	ts.Check(err)
	defer db.Close()
	ts.Check(db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("blobs")).Delete(record.GetDecided().GetCaller().GetSnapshot())
	}))
}
