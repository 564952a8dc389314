package idtoken_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/devidp"
	"github.com/hallpass-ssh/hallpass/internal/idtoken"
)

// clock is a clock that tests set.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// setting is a provider, a verifier of its tokens, and their clock.
type setting struct {
	*devidp.Server
	verifier *idtoken.Verifier
	clock    *clock
}

func newSetting(t testing.TB) *setting {
	t.Helper()
	s := &setting{clock: &clock{}}
	s.Server = startProvider(t, devidp.Config{Clock: s.clock.now})
	s.verifier = newVerifier(t, idtoken.Config{Issuers: issuers(s.Server), Now: s.clock.now})
	return s
}

func (s *setting) token(t testing.TB) string {
	t.Helper()
	return sign(t, s.People(), person(t, s.Server, nil), devidp.TokenOptions{})
}

func (s *setting) authenticate(t testing.TB, raw string) error {
	t.Helper()
	_, err := s.verifier.Authenticate(t.Context(), raw, s.clock.now())
	return err
}

func (s *setting) wantTaken(t testing.TB, raw string) {
	t.Helper()
	if err := s.authenticate(t, raw); err != nil {
		t.Fatalf("got %v, want no error", err)
	}
}

func TestKeyRotation(t *testing.T) {
	s := newSetting(t)
	old := s.token(t)
	s.wantTaken(t, old)
	if err := s.People().RotateKey(); err != nil {
		t.Fatal(err)
	}
	s.wantTaken(t, s.token(t)) // by a key that the verifier has not seen
	s.wantTaken(t, old)
}

// TestWithdrawnKey shows that not even a token which verified before outlives its key.
func TestWithdrawnKey(t *testing.T) {
	s := newSetting(t)
	old := s.token(t)
	s.wantTaken(t, old)
	if err := s.People().ReplaceKey(); err != nil {
		t.Fatal(err)
	}
	s.wantTaken(t, s.token(t))
	s.clock.advance(11 * time.Second)
	wantRefused(t, s.authenticate(t, old), ca.Unauthenticated, "does not publish")
}

// TestFloodOfUnknownKeys shows that strangers cannot make the verifier flood the issuer, nor keep others from being verified.
func TestFloodOfUnknownKeys(t *testing.T) {
	s := newSetting(t)
	good := s.token(t)
	s.wantTaken(t, good)
	before := s.Fetches(devidp.KeysPath)
	claims := person(t, s.Server, nil)
	template := strings.Split(good, ".")
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 1250 {
				header := encode(fmt.Sprintf(`{"alg":"RS256","kid":"k-%d-%d"}`, g, n))
				_, err := s.verifier.Authenticate(t.Context(), header+"."+template[1]+"."+template[2], time.Now())
				if ca.KindOf(err) != ca.Unauthenticated {
					t.Errorf("got %v, want Unauthenticated", err)
				}
			}
		})
	}
	wg.Wait()
	if got := s.Fetches(devidp.KeysPath) - before; got > 1 {
		t.Errorf("ten thousand unknown key ids caused %d fetches, want at most 1", got)
	}
	s.wantTaken(t, sign(t, s.People(), claims, devidp.TokenOptions{}))
	s.clock.advance(11 * time.Second)
	if err := s.People().RotateKey(); err != nil {
		t.Fatal(err)
	}
	s.wantTaken(t, s.token(t))
}

// TestIssuerDownAtStart shows that the verifier says so, and verifies as soon as the issuer is up.
func TestIssuerDownAtStart(t *testing.T) {
	c := &clock{}
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	server.Break(devidp.Down)
	v := newVerifier(t, idtoken.Config{Issuers: issuers(server), Now: c.now})
	raw := sign(t, server.People(), person(t, server, nil), devidp.TokenOptions{})
	_, err := v.Authenticate(t.Context(), raw, time.Now())
	wantRefused(t, err, ca.Unavailable, "keys of issuer "+server.URL())
	if h := v.Health()[0]; h.Name != "people" || h.URL != server.URL() || h.OK || h.Error == "" || h.Age >= 0 || h.Keys != 0 || h.Failures == 0 {
		t.Errorf("health is %+v, want an issuer that is down", h)
	}
	server.Break(nil)
	c.advance(11 * time.Second)
	if _, err := v.Authenticate(t.Context(), raw, time.Now()); err != nil {
		t.Fatalf("after the issuer came up: %v", err)
	}
	if h := v.Health()[0]; !h.OK || h.Error != "" || h.Age < 0 || h.Keys == 0 {
		t.Errorf("health is %+v, want an issuer that is up", h)
	}
	before := v.Cache()
	if _, err := v.Authenticate(t.Context(), raw, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got, want := v.Cache(), (idtoken.CacheStats{Tokens: 1, Hits: before.Hits + 1, Misses: before.Misses}); got != want || before.Misses == 0 {
		t.Errorf("the same token again: the cache says %+v, want %+v", got, want)
	}
}

// TestFailingIssuer shows for each way to fail that known keys serve until they are too old, and that then nobody gets in.
func TestFailingIssuer(t *testing.T) {
	released := make(chan struct{})
	defer close(released)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect to another host was followed")
	}))
	defer elsewhere.Close()
	huge := func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			chunk := []byte(strings.Repeat(" ", 1<<20))
			for range 100 {
				if _, err := w.Write(chunk); err != nil {
					return // as it should be: nobody reads on
				}
			}
			t.Error("an answer of 100 MiB was read to its end")
		})
	}
	for _, tt := range []struct {
		name  string
		fault devidp.Fault
		want  string
	}{
		{"the connection breaks", devidp.Down, "EOF"},
		{"discovery answers 500", devidp.At(devidp.Answering(500, "oops\x1b[31m"), devidp.DiscoveryPath), "500"},
		{"discovery is garbage", devidp.At(devidp.Answering(200, "<html>"), devidp.DiscoveryPath), "decode provider"},
		{"discovery names another issuer", devidp.At(devidp.Answering(200, `{"issuer":"https://evil.example","jwks_uri":"https://evil.example/keys"}`), devidp.DiscoveryPath), "did not match"},
		{"the keys answer 500", devidp.At(devidp.Answering(500, `{"keys":[]}`), devidp.KeysPath), "500"},
		{"the keys are garbage", devidp.At(devidp.Answering(200, "{"), devidp.KeysPath), "decode JWK set"},
		{"the keys are null", devidp.At(devidp.Answering(200, `{"keys":null}`), devidp.KeysPath), "has no keys"},
		{"the keys are 100 MiB", devidp.At(huge, devidp.KeysPath), "longer than 1048576 bytes"},
		{"discovery is 100 MiB", devidp.At(huge, devidp.DiscoveryPath), "longer than 1048576 bytes"},
		{"discovery redirects to another host", devidp.At(devidp.Redirecting(elsewhere.URL), devidp.DiscoveryPath), "another host"},
		{"the keys redirect to another host", devidp.At(devidp.Redirecting(elsewhere.URL), devidp.KeysPath), "another host"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &clock{}
			server := startProvider(t, devidp.Config{KeyFile: keyFile, IDTokenLifetime: 72 * time.Hour})
			v := newVerifier(t, idtoken.Config{Issuers: issuers(server), Now: c.now})
			raw := sign(t, server.People(), person(t, server, nil), devidp.TokenOptions{})
			now := time.Now()
			authenticate := func(raw string) error {
				_, err := v.Authenticate(t.Context(), raw, now)
				return err
			}
			if err := authenticate(raw); err != nil {
				t.Fatal(err)
			}
			server.Break(tt.fault)
			unknown := sign(t, server.People(), person(t, server, nil), devidp.TokenOptions{Header: map[string]any{"kid": "new"}})
			wantRefused(t, authenticate(unknown), ca.Unavailable, "keys of issuer")
			if h := v.Health()[0]; !h.OK || !strings.Contains(h.Error, tt.want) || strings.ContainsAny(h.Error, "\x1b\n") || len(h.Error) > 400 {
				t.Errorf("health is %+v, want known keys and an error with %q", h, tt.want)
			}
			c.advance(23 * time.Hour)
			if err := authenticate(raw); err != nil {
				t.Fatalf("a known key, 23 hours old: %v", err)
			}
			c.advance(2 * time.Hour)
			wantRefused(t, authenticate(raw), ca.Unavailable, "keys of issuer")
			if h := v.Health()[0]; h.OK {
				t.Errorf("health is %+v, want keys that are too old", h)
			}
			server.Break(nil)
			c.advance(11 * time.Second)
			if err := authenticate(raw); err != nil {
				t.Fatalf("after the issuer recovered: %v", err)
			}
		})
	}
}

// TestSlowIssuer shows that a caller waits no longer than it wants to, and that its giving up hurts nobody else.
func TestSlowIssuer(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	released := make(chan struct{})
	server.Break(devidp.Stalled(released))
	v := newVerifier(t, idtoken.Config{Issuers: issuers(server)})
	raw := sign(t, server.People(), person(t, server, nil), devidp.TokenOptions{})
	hasty, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := v.Authenticate(hasty, raw, time.Now())
	wantRefused(t, err, ca.Unavailable, "keys of issuer")
	patient := make(chan error, 1)
	go func() {
		_, err := v.Authenticate(t.Context(), raw, time.Now())
		patient <- err
	}()
	close(released)
	if err := <-patient; err != nil {
		t.Errorf("who waited got %v, want no error", err)
	}
}

// TestWithdrawnKeys shows that an issuer which publishes no key any more means it.
func TestWithdrawnKeys(t *testing.T) {
	s := newSetting(t)
	raw := s.token(t)
	s.wantTaken(t, raw)
	s.Break(devidp.At(devidp.Answering(200, `{"keys":[]}`), devidp.KeysPath))
	unknown := sign(t, s.People(), person(t, s.Server, nil), devidp.TokenOptions{Header: map[string]any{"kid": "new"}})
	wantRefused(t, s.authenticate(t, unknown), ca.Unauthenticated, "does not publish")
	wantRefused(t, s.authenticate(t, raw), ca.Unauthenticated, "does not publish")
	if h := s.verifier.Health()[0]; h.OK || !strings.Contains(h.Error, "no key") {
		t.Errorf("health is %+v, want an issuer without keys", h)
	}
}

func TestNotStartedAndClosed(t *testing.T) {
	server := startProvider(t, devidp.Config{KeyFile: keyFile})
	v, err := idtoken.New(idtoken.Config{Issuers: issuers(server)})
	if err != nil {
		t.Fatal(err)
	}
	raw := sign(t, server.People(), person(t, server, nil), devidp.TokenOptions{})
	_, err = v.Authenticate(t.Context(), raw, time.Now())
	wantRefused(t, err, ca.Unavailable, "keys of issuer")
	v.Start(t.Context())
	v.Start(t.Context())
	if _, err := v.Authenticate(t.Context(), raw, time.Now()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.Authenticate(t.Context(), raw, time.Now()); err != nil {
		t.Errorf("after Close, with keys that are known: %v", err)
	}
	unknown := sign(t, server.People(), person(t, server, nil), devidp.TokenOptions{Header: map[string]any{"kid": "new"}})
	_, err = v.Authenticate(t.Context(), unknown, time.Now())
	wantRefused(t, err, ca.Unauthenticated, "does not publish")
}

// TestManyAtOnce looks for races between callers, a rotation and Health.
func TestManyAtOnce(t *testing.T) {
	s := newSetting(t)
	old := s.token(t)
	if err := s.People().RotateKey(); err != nil {
		t.Fatal(err)
	}
	raws := []string{old, s.token(t)}
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for range 20 {
				s.wantTakenNow(t, raws[g%2])
				s.verifier.Health()
			}
		})
	}
	wg.Wait()
}

// wantTakenNow is wantTaken for goroutines, which must not end the test.
func (s *setting) wantTakenNow(t testing.TB, raw string) {
	if err := s.authenticate(t, raw); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}
