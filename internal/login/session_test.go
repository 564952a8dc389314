package login_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zalando/go-keyring"

	"github.com/hallpass-ssh/hallpass/internal/devidp"
	"github.com/hallpass-ssh/hallpass/internal/login"
)

func newSession() login.Session {
	return login.Session{
		Server:       "hallpass.example.com:443",
		Issuer:       login.Provider{Issuer: "https://id.example.com", ClientID: "hallpass", Scopes: []string{"openid"}},
		Subject:      "s-1",
		Email:        "alice@example.com",
		Expiry:       time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
		TokenNonce:   []byte("0123456789abcdef0123456789abcdef"),
		PublicKey:    []byte{0, 1, 2},
		KeyExpires:   time.Date(2030, 1, 2, 15, 0, 0, 0, time.UTC),
		IDToken:      "the-id-token",
		RefreshToken: "the-refresh-token",
	}
}

// openStore opens a store of its own: with "file" the keyring is off, with "keyring" one in memory is used, and with "broken" one
// that fails.
func openStore(t testing.TB, kind string) (*login.Store, string) {
	t.Helper()
	value := ""
	switch kind {
	case "file":
		value = "off"
	case "keyring":
		keyring.MockInit()
	case "broken":
		keyring.MockInitWithError(errors.New("no D-Bus"))
	}
	t.Setenv("HALLPASS_KEYRING", value)
	dir := filepath.Join(t.TempDir(), "state", "hallpass")
	return login.Open(dir), dir
}

// filesOf returns the files of the directory with their contents.
func filesOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, entry := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = string(raw)
	}
	return files
}

func TestSessionIsKept(t *testing.T) {
	for kind, inKeyring := range map[string]bool{"file": false, "keyring": true, "broken": false} {
		t.Run(kind, func(t *testing.T) {
			store, dir := openStore(t, kind)
			if _, err := store.Load(t.Context()); !errors.Is(err, login.ErrNoSession) || !errors.Is(err, login.ErrSignIn) {
				t.Fatalf("an empty store: got %v, want ErrNoSession", err)
			}
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("looking made the directory: %v", err)
			}
			if err := store.Delete(t.Context()); err != nil {
				t.Fatalf("delete nothing: %v", err)
			}
			want := newSession()
			for range 2 {
				if err := store.Save(t.Context(), want); err != nil {
					t.Fatal(err)
				}
				want.InKeyring = inKeyring
				got, err := store.Load(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("session (-want +got):\n%s", diff)
				}
				want.IDToken, want.RefreshToken = "another-id-token", ""
			}
			for name, content := range filesOf(t, dir) {
				if strings.Contains(content, "id-token") && (inKeyring || name != "secrets.json") {
					t.Errorf("%s holds a token", name)
				}
				info, err := os.Stat(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				if mode := info.Mode().Perm(); mode != 0o600 {
					t.Errorf("%s has mode %04o, want 0600", name, mode)
				}
			}
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("the directory has mode %v, %v, want 0700", info.Mode(), err)
			}
			if err := store.Delete(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := store.Load(t.Context()); !errors.Is(err, login.ErrNoSession) {
				t.Errorf("after Delete: got %v, want ErrNoSession", err)
			}
			if files := filesOf(t, dir); len(files) > 1 || files["lock"] != "" {
				t.Errorf("after Delete there are still %v", files)
			}
		})
	}
}

// TestKeyringIsCleared shows that signing out leaves no token in the keyring.
func TestKeyringIsCleared(t *testing.T) {
	store, dir := openStore(t, "keyring")
	if err := store.Save(t.Context(), newSession()); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Get("hallpass", "refresh-token "+dir); err != nil {
		t.Fatalf("the refresh token is not in the keyring: %v", err)
	}
	if err := store.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"id-token ", "refresh-token "} {
		if _, err := keyring.Get("hallpass", name+dir); !errors.Is(err, keyring.ErrNotFound) {
			t.Errorf("%s after signing out: got %v, want not found", name, err)
		}
	}
}

// TestKeyringThatFailsLater shows that tokens which cannot be reached are neither taken for gone nor for deleted.
func TestKeyringThatFailsLater(t *testing.T) {
	store, _ := openStore(t, "keyring")
	if err := store.Save(t.Context(), newSession()); err != nil {
		t.Fatal(err)
	}
	keyring.MockInitWithError(errors.New("locked"))
	_, err := store.Load(t.Context())
	wantError(t, err, "keyring, which cannot be used: locked")
	wantError(t, store.Delete(t.Context()), "locked")
	_, err = store.Load(t.Context())
	wantError(t, err, "locked") // so that signing out can be tried again
}

// TestKeyringIsClearedOfDamagedSession shows that a session which cannot be read leaves no token behind either.
func TestKeyringIsClearedOfDamagedSession(t *testing.T) {
	store, dir := openStore(t, "keyring")
	if err := store.Save(t.Context(), newSession()); err != nil {
		t.Fatal(err)
	}
	chmod(t, filepath.Join(dir, "session.json"), 0o644)
	if err := store.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Get("hallpass", "refresh-token "+dir); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("the refresh token after signing out: got %v, want not found", err)
	}
}

// TestKeyringIsTurnedOff shows that a session whose tokens were in the keyring asks for a new sign-in then.
func TestKeyringIsTurnedOff(t *testing.T) {
	store, dir := openStore(t, "keyring")
	if err := store.Save(t.Context(), newSession()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HALLPASS_KEYRING", "off")
	_, err := login.Open(dir).Load(t.Context())
	if wantError(t, err, "HALLPASS_KEYRING=off"); !errors.Is(err, login.ErrSignIn) {
		t.Errorf("got %v, want ErrSignIn in its chain", err)
	}
}

// TestUnsafeFiles shows that a file which others could have read or written is not trusted, and that the message says which.
func TestUnsafeFiles(t *testing.T) {
	for _, name := range []string{"session.json", "secrets.json", "lock"} {
		for _, tt := range []struct {
			name  string
			spoil func(t *testing.T, path string)
			want  string
		}{
			{"readable by others", func(t *testing.T, path string) { chmod(t, path, 0o644) }, "others may read or write"},
			{"readable by the group", func(t *testing.T, path string) { chmod(t, path, 0o640) }, "(mode 0640)"},
			{"a symbolic link", func(t *testing.T, path string) {
				if err := os.Rename(path, path+".real"); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(path+".real", path); err != nil {
					t.Fatal(err)
				}
			}, "is a symbolic link"},
			{"a directory", func(t *testing.T, path string) {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			}, "directory"},
		} {
			t.Run(name+" is "+tt.name, func(t *testing.T) {
				store, dir := openStore(t, "file")
				if err := store.Save(t.Context(), newSession()); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(dir, name)
				tt.spoil(t, path)
				_, err := store.Load(t.Context())
				if name != "lock" && tt.name == "a directory" {
					wantError(t, err, "not a regular file")
				} else {
					wantError(t, err, tt.want)
				}
				wantError(t, err, path)
			})
		}
	}
}

func chmod(t testing.TB, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestUnsafeDirectory(t *testing.T) {
	store, dir := openStore(t, "file")
	if err := store.Save(t.Context(), newSession()); err != nil {
		t.Fatal(err)
	}
	chmod(t, dir, 0o777)
	_, err := store.Load(t.Context())
	wantError(t, err, "others may write to "+dir)
}

func TestDamagedSession(t *testing.T) {
	for _, name := range []string{"session.json", "secrets.json"} {
		store, dir := openStore(t, "file")
		if err := store.Save(t.Context(), newSession()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := store.Load(t.Context())
		wantError(t, err, name+" is damaged: sign in again")
		if err := store.Save(t.Context(), newSession()); err != nil {
			t.Errorf("a new sign-in over a damaged %s: %v", name, err)
		}
		if err := store.Delete(t.Context()); err != nil {
			t.Errorf("sign out of a damaged session: %v", err)
		}
	}
}

// TestManyRefreshAtOnce shows that of many processes one refreshes: the provider ends the session if a refresh token comes twice.
func TestManyRefreshAtOnce(t *testing.T) {
	server := startProvider(t, devidp.Config{IDTokenLifetime: time.Hour})
	tokens := signIn(t, server, login.Options{})
	_, dir := openStore(t, "file")
	session := newSession()
	session.Issuer, session.Subject, session.Expiry = provider(server), tokens.Subject, tokens.Expiry
	session.IDToken, session.RefreshToken = tokens.IDToken, tokens.RefreshToken
	if err := login.Open(dir).Save(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	fresh := func(ctx context.Context) (login.Session, error) {
		// From half an hour before the expiry on the token counts as stale; a refreshed one is valid for longer than that.
		return login.Open(dir).Fresh(ctx, tokens.Expiry.Add(-30*time.Minute), 30*time.Minute)
	}
	if got, err := login.Open(dir).Fresh(t.Context(), time.Now(), time.Minute); err != nil || got.IDToken != tokens.IDToken {
		t.Fatalf("a token that is valid for an hour was not left alone: %v", err)
	}
	server.Break(devidp.Down)
	if got, err := fresh(t.Context()); err != nil || got.IDToken != tokens.IDToken {
		t.Fatalf("with the provider down: got %v, want the token that is still valid", err)
	}
	if _, err := login.Open(dir).Fresh(t.Context(), tokens.Expiry, 0); err == nil || errors.Is(err, login.ErrSignIn) {
		t.Fatalf("with the provider down and the token expired: got %v, want an error that a new sign-in would not mend", err)
	}
	server.Break(nil)
	waitForNextSecond(tokens.Expiry.Add(-time.Hour))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got, err := fresh(t.Context())
			if err != nil {
				t.Errorf("got %v, want no error", err)
			} else if got.IDToken == tokens.IDToken || got.Subject != tokens.Subject || len(got.TokenNonce) != 32 {
				t.Errorf("got the old token, or another session")
			}
		})
	}
	wg.Wait()
}

// waitForNextSecond returns when a token issued now expires later than one issued at the time.
func waitForNextSecond(issued time.Time) {
	for time.Now().Unix() <= issued.Unix() {
		time.Sleep(10 * time.Millisecond)
	}
}

// TestRefreshedAsSomebodyElse shows that a session cannot turn into that of another person.
func TestRefreshedAsSomebodyElse(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	tokens := signIn(t, server, login.Options{})
	store, _ := openStore(t, "file")
	session := newSession()
	session.Issuer, session.Expiry, session.RefreshToken = provider(server), time.Now(), tokens.RefreshToken
	session.Subject = "u-2be804d6"
	if err := store.Save(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	_, err := store.Fresh(t.Context(), time.Now(), time.Minute)
	if wantError(t, err, "somebody else"); !errors.Is(err, login.ErrSignIn) {
		t.Errorf("got %v, want ErrSignIn in its chain", err)
	}
}

// TestWaitingForTheLock shows that who waits can give up.
func TestWaitingForTheLock(t *testing.T) {
	server := startProvider(t, devidp.Config{})
	released := make(chan struct{})
	arrived := make(chan struct{}, 1)
	stalled := devidp.Stalled(released)
	server.Break(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case arrived <- struct{}{}:
			default:
			}
			stalled(next).ServeHTTP(w, r)
		})
	})
	store, _ := openStore(t, "file")
	session := newSession()
	session.Issuer, session.Expiry = provider(server), time.Now()
	if err := store.Save(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	refreshed := make(chan error, 1)
	go func() {
		_, err := store.Fresh(t.Context(), time.Now(), time.Minute)
		refreshed <- err
	}()
	<-arrived
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	_, err := store.Load(ctx)
	wantError(t, err, "another hallpass that signs in: interrupted")
	close(released)
	wantError(t, <-refreshed, "invalid_grant") // the session's refresh token is made up
}

// TestSessionHasNoTokens shows that a session can be printed as JSON.
func TestSessionHasNoTokens(t *testing.T) {
	raw, err := json.Marshal(newSession())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "-token\"") {
		t.Errorf("the JSON of a session holds a token: %s", raw)
	}
}
