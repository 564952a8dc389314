package faults_test

import (
	"fmt"
	"github.com/hallpass-ssh/hallpass/internal/fixture/long"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
)

// A fault is a way in which the ground under the daemon breaks.
type fault struct {
	id, name string
	// How many rounds there are in make test, in make e2e, and in make soak.
	test, e2e, soak int
	// life is how many rounds an authority goes through before another takes its place; 0 for ten.
	life int
	// root says that only root can bring it about, with loop devices. Another fault, or another package, has a twin that needs none.
	root bool
	// begin makes the authority of a life; nil for one in a plain folder.
	begin func(*testing.T, *rand.Rand) *authority
	// round lets the fault happen once, under load, and gets the authority going again. At its end no daemon runs.
	round func(*testing.T, *authority, *rand.Rand)
}

// schedule is what happens in a run. The twin of the loss of power is bolt.TestCrashAtEachWrite, which tries what a disk may hold at
// every point of a commit.
func schedule() []fault {
	return []fault{
		{id: "F01", name: "killed at any time", test: 2, e2e: 20, soak: 1000, round: killed},
		{id: "F02", name: "killed in a system call", test: 3, e2e: 20, soak: 200, round: killedInACall},
		{id: "F03e", name: "power lost, ext4", test: 1, e2e: 4, soak: 100, life: 4, root: true, begin: onExt4, round: powerLost},
		{id: "F03x", name: "power lost, xfs", test: 1, e2e: 2, soak: 100, life: 4, root: true, begin: onXFS, round: powerLost},
		{id: "F04t", name: "disk full, tmpfs", test: 1, e2e: 3, soak: 25, root: true, begin: onTmpfs, round: diskFull},
		{id: "F04e", name: "disk full, ext4 of 8 MB", e2e: 3, soak: 25, life: 3, root: true, begin: onSmallExt4, round: diskFull},
		{id: "F05", name: "no file may grow", test: 1, e2e: 3, soak: 20, round: noFileMayGrow},
		{id: "F06i", name: "writes refused as read-only", test: 1, e2e: 3, soak: 20, round: writesRefused},
		{id: "F06m", name: "file system turns read-only", test: 1, e2e: 3, soak: 20, life: 4, root: true, begin: onExt4, round: turnedReadOnly},
		{id: "F07i", name: "sync fails once or for ever", test: 2, e2e: 6, soak: 100, round: syncFails},
		{id: "F07t", name: "sync fails, no blocks under the disk", test: 1, e2e: 3, soak: 20, life: 1, root: true, begin: onThinExt4, round: blocksRunOut},
		{id: "F08", name: "sync is slow", test: 1, e2e: 3, soak: 20, round: slowSync},
		{id: "F09", name: "the file is damaged", test: 8, e2e: 60, soak: 500, life: 60, begin: withHistory, round: damaged},
		{id: "F10", name: "an older log is put back", test: 1, e2e: 3, soak: 10, round: putBack},
		{id: "F11", name: "a second daemon", test: 1, e2e: 3, soak: 5, round: secondDaemon},
		{id: "F14", name: "the clock jumps", test: 2, e2e: 5, soak: 30, life: 1, begin: withClock, round: clockJumps},
		{id: "F28", name: "ends under load, starts again and again", test: 2, e2e: 5, soak: 50, round: ends},
		{id: "F28u", name: "goes on from the log of a release", test: 1, e2e: 1, soak: 5, life: 1, begin: fromRelease, round: killed},
		{id: "F29", name: "followers, exports, backups", test: 1, e2e: 2, soak: 10, life: 2, round: heavyReaders},
	}
}

// count is the number of rounds in this run: HALLPASS_ROUNDS is a number, or soak; HALLPASS_LONG is set in make e2e.
func (f *fault) count(t *testing.T) int {
	t.Helper()
	switch n := os.Getenv("HALLPASS_ROUNDS"); {
	case n == "soak":
		return f.soak
	case n != "":
		count, err := strconv.Atoi(n)
		if err != nil {
			t.Fatalf("HALLPASS_ROUNDS is %q, want a number of rounds, or soak", n)
		}
		return count
	}
	return long.Rounds(f.test, f.e2e)
}

// firstSeed is that of the first life of each fault; those after it count up.
func firstSeed(t *testing.T) uint64 {
	t.Helper()
	given := os.Getenv("HALLPASS_SEED")
	if given == "" {
		return rand.Uint64N(1e6) * 1000
	}
	seed, err := strconv.ParseUint(given, 10, 64)
	if err != nil {
		t.Fatalf("HALLPASS_SEED is %q, want a number", given)
	}
	return seed
}

// TestFaults lets each fault happen as often as the run asks for.
func TestFaults(t *testing.T) {
	var all []*tally
	seed := firstSeed(t)
	for _, f := range schedule() {
		sum := &tally{id: f.id, name: f.name}
		ran := t.Run(f.id+" "+f.name, func(t *testing.T) {
			if f.root && !mayMount(t) {
				t.Log("takes root and loop devices: its twin runs instead")
				return
			}
			f.run(t, seed, sum)
		})
		if ran && sum.rounds > 0 || !ran {
			all = append(all, sum)
		}
	}
	t.Log("what happened, and what the clients got\n" + table(all))
}

// mayMount says whether file systems can be mounted here. Where changes are tested they must be.
func mayMount(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return false
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("no loop devices, and this is CI: %v", err)
		}
		return false
	}
	return true
}

// run lets a fault happen to one authority after the other.
func (f *fault) run(t *testing.T, seed uint64, sum *tally) {
	life, begin := f.life, f.begin
	if life == 0 {
		life = 10
	}
	if begin == nil {
		begin = inAFolder
	}
	for todo := f.count(t); todo > 0; todo -= life {
		n := min(life, todo)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					sum.violations++
					t.Logf("run it again: HALLPASS_SEED=%d HALLPASS_ROUNDS=%d go test -count=1 -v -run 'TestFaults/%s' ./e2e/faults", seed, n, f.id)
				}
			}()
			random := rand.New(rand.NewPCG(seed, 0))
			a := begin(t, random)
			defer func() { sum.add(a) }()
			for range n {
				sum.rounds++
				f.round(t, a, random)
				if a.check(t); t.Failed() {
					return
				}
			}
		})
		seed++
	}
}

func inAFolder(t *testing.T, _ *rand.Rand) *authority {
	t.Helper()
	return newAuthority(t, filepath.Join(t.TempDir(), "ca"))
}

// A tally is what a fault came to.
type tally struct {
	id, name string
	rounds   int
	counts
	records    int
	recorded   int // of those that got no answer; the next daemon gave it
	unclaimed  int // certificates in the log that no client has received
	violations int // lives in which something did not hold
}

func (s *tally) add(a *authority) {
	c := a.seen.counts()
	s.granted += c.granted
	s.refused += c.refused
	s.unwritten += c.unwritten
	s.lost += c.lost + a.seen.repeated
	s.records += a.records
	s.recorded += a.recorded
	s.unclaimed += a.unclaimed
}

func table(all []*tally) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "fault\trounds\trecords\tcertificates\trefusals\tunavailable\tunanswered\trecorded\tunclaimed\tviolations\t")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t  %s\n",
			s.id, s.rounds, s.records, s.granted, s.refused, s.unwritten, s.lost, s.recorded, s.unclaimed, s.violations, s.name)
	}
	_ = w.Flush() // into memory
	return b.String()
}
