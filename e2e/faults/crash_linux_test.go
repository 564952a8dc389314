package faults_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// killed kills the daemon at a random moment under load. The next one answers all that got no answer.
func killed(t *testing.T, a *authority, random *rand.Rand) {
	before := a.seen.counts()
	p := a.start(t)
	l := a.load(t, p)
	a.busy(t, p, before)
	time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond)))) // any moment is as good
	p.kill(t)
	l.stop()
	a.again(t, random)
}

// again starts the daemon, which now answers all that got no answer, and ends it in one way or the other.
func (a *authority) again(t *testing.T, random *rand.Rand) {
	t.Helper()
	p := a.start(t)
	a.repeat(t, p)
	if random.IntN(2) == 0 {
		p.kill(t)
	} else {
		p.stop(t)
	}
}

// calls are the system calls by which the daemon changes something, each with the largest number of the one in which it is killed:
// the commits, the growth of the file, the head, and all that it says. strace counts the calls of each thread on its own.
var calls = []struct {
	name string
	most int
}{
	{"fdatasync", 40}, {"pwrite64", 40}, {"write", 40}, {"ftruncate", 2}, {"fsync", 3}, {"renameat", 2},
}

// killedInACall kills the daemon as it enters a system call. One that comes too seldom is not waited for.
func killedInACall(t *testing.T, a *authority, random *rand.Rand) {
	call := calls[random.IntN(len(calls))]
	number := 1 + random.IntN(call.most)
	p := a.launch(t, inject(call.name, fmt.Sprint("signal=KILL:when=", number))...)
	if p.listening() != "" { // else it was killed before
		before := a.seen.counts()
		l := a.load(t, p)
		a.reaches(t, p, "the end of the daemon", func(now counts) bool { return now.granted-before.granted > 20*clients })
		p.signal(t, syscall.SIGKILL)
		l.stop()
	}
	if code := p.wait(t); code != -1 {
		t.Errorf("%s number %d: the daemon ended with %d, want a signal", call.name, number, code)
	}
	a.again(t, random)
}

// ends asks the daemon to end under load: it ends well, and has recorded what it answered, and nothing else. Then it is started and
// ended a few times, at any moment of its start.
func ends(t *testing.T, a *authority, random *rand.Rand) {
	recorded := a.recorded
	p := a.start(t)
	l := a.load(t, p)
	a.busy(t, p, a.seen.counts())
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t); code != 0 {
		t.Errorf("the daemon ended with %d, want 0", code)
	}
	l.stop()
	for range 3 {
		p := a.launch(t)
		time.Sleep(time.Duration(random.Int64N(int64(200 * time.Millisecond)))) // any moment is as good
		p.signal(t, syscall.SIGTERM)
		if code := p.wait(t); code != 0 && code != -1 { // a signal ends the program until it listens to signals
			t.Errorf("the daemon that was just started ended with %d:\n%s", code, last(p.output(), 4000))
		}
	}
	if a.again(t, random); a.recorded != recorded {
		t.Errorf("the daemon ended before it answered %d requests that it had recorded", a.recorded-recorded)
	}
}

// fromRelease makes an authority whose log a release began.
func fromRelease(t *testing.T, random *rand.Rand) *authority {
	t.Helper()
	a := inAFolder(t, random)
	a.borrowed = true
	const testdata = "../../store/bolt/testdata/format1"
	packed, err := os.Open(testdata + ".db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	log, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, a.log(), log)
	writeFile(t, a.log()+".head", readFile(t, testdata+".head"))
	writeFile(t, filepath.Join(a.dir, "keys", "log"), readFile(t, testdata+".key"))
	return a
}

// secondDaemon starts a second daemon: it does not start, and the first does not mind.
func secondDaemon(t *testing.T, a *authority, random *rand.Rand) {
	p := a.start(t)
	l := a.load(t, p)
	second := a.launch(t)
	if code := second.wait(t); code != 1 {
		t.Errorf("the second daemon ended with %d, want 1", code)
	}
	second.says(t, "another daemon has it open")
	a.busy(t, p, a.seen.counts())
	l.stop()
	p.stop(t)
	a.again(t, random)
}

// TestAnswerLostAfterTheRecord kills the daemon between the record and the signature. The record stands: the same bytes, sent
// again, get a certificate with its serial.
func TestAnswerLostAfterTheRecord(t *testing.T) {
	a := newAuthority(t, filepath.Join(t.TempDir(), "ca"))
	agent := a.moveKey(t)
	p := a.start(t)
	agent.signal(t, syscall.SIGSTOP) // asked for a signature, it does not answer
	r, err := a.signIn(t, "user0").ask("app1.staging.example.com")
	if err != nil {
		t.Fatal(err)
	}
	conn, answered := a.connect(t, p), make(chan bool)
	go func() {
		ok, err := a.seen.send(t.Context(), conn, r)
		if err != nil {
			t.Error(err)
		}
		answered <- ok
	}()
	index := a.awaitRecord(t, p, r)
	p.kill(t)
	if <-answered {
		t.Fatal("there was an answer, although nothing was signed")
	}
	agent.signal(t, syscall.SIGCONT)
	p = a.start(t)
	a.repeat(t, p)
	p.stop(t)
	a.check(t)
	if g := a.seen.granted; len(g) != 1 || g[0].index != index {
		t.Errorf("the certificates are %+v, want one with the index %d", g, index)
	}
}
