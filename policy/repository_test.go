package policy_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/internal/fixture/gitrepo"
	"github.com/hallpass-ssh/hallpass/policy"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// follow opens a copy of a repository at an address.
func follow(t *testing.T, url string, change ...func(*policy.RepositoryConfig)) *policy.Repository {
	t.Helper()
	cfg := policy.RepositoryConfig{URL: url, Branch: "main", Folder: ".", Mirror: filepath.Join(t.TempDir(), "policy.git"), MaxBytes: 64 << 20}
	for _, f := range change {
		f(&cfg)
	}
	r, err := policy.OpenRepository(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func overHTTPS(s *gitrepo.Server) func(*policy.RepositoryConfig) {
	return func(c *policy.RepositoryConfig) {
		c.CAFile, c.Username = s.CAFile, gitrepo.Username
		c.Password = func() (string, error) { return gitrepo.Password, nil }
	}
}

// fetched fetches and reads the newest commit.
func fetched(t *testing.T, r *policy.Repository) *policy.Bundle {
	t.Helper()
	if err := r.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := r.Read(r.Head())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRepositoryIsFollowed(t *testing.T) {
	for _, tt := range []struct {
		name string
		open func(t *testing.T, r *gitrepo.Repo) *policy.Repository
	}{
		{"a bare repository of this machine", func(t *testing.T, r *gitrepo.Repo) *policy.Repository { return follow(t, r.Bare) }},
		{"a work tree of this machine", func(t *testing.T, r *gitrepo.Repo) *policy.Repository { return follow(t, "file://"+r.Dir) }},
		{"smart HTTP with TLS", func(t *testing.T, r *gitrepo.Repo) *policy.Repository {
			s := gitrepo.Serve(t, r)
			return follow(t, s.URL, overHTTPS(s))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := gitrepo.New(t)
			r.Write("policy.yaml", strings.Repeat("one\n", 5000))
			r.Write("README.md", "no policy")
			first := r.Commit("Begin\n\nand more")
			repo := tt.open(t, r)
			b := fetched(t, repo)
			if b.Revision != first || len(b.Files) != 1 || b.Dirty {
				t.Errorf("read %s with %d files, want %s", b.Revision, len(b.Files), first)
			}
			if c := b.Commit; c.Author != "Alice <alice@example.com>" || c.Subject != "Begin" || time.Since(c.Time) > time.Hour {
				t.Errorf("the commit is %+v", c)
			}
			r.Write("policy.yaml", strings.Repeat("one\n", 5000)+"two")
			second := r.Commit("Go on")
			if b := fetched(t, repo); b.Revision != second || !strings.HasSuffix(string(b.Files["policy.yaml"]), "two") {
				t.Errorf("then read %s, want %s", b.Revision, second)
			}
			if ok, err := repo.Descends(t.Context(), second, first); !ok || err != nil {
				t.Errorf("the second descends from the first: %v, %v", ok, err)
			}
			if ok, err := repo.Descends(t.Context(), first, second); ok || err != nil {
				t.Errorf("the first descends from the second: %v, %v", ok, err)
			}
			r.Git("reset", "-q", "--hard", first)
			r.Push()
			if b := fetched(t, repo); b.Revision != first {
				t.Errorf("set back: read %s, want %s", b.Revision, first)
			}
		})
	}
}

func TestRepositorySurvivesItsRemote(t *testing.T) {
	r := gitrepo.New(t)
	r.Write("sub/policy.yaml", "one")
	first := r.Commit("Begin")
	mirror := filepath.Join(t.TempDir(), "policy.git")
	at := func(c *policy.RepositoryConfig) { c.Mirror, c.Folder = mirror, "sub" }
	fetched(t, follow(t, r.Bare, at))
	if err := os.Rename(r.Bare, r.Bare+".gone"); err != nil {
		t.Fatal(err)
	}
	// What a crash left behind does no harm.
	for _, name := range []string{"incoming-1", "objects/pack/tmp_pack_1"} {
		writeFile(t, filepath.Join(mirror, name), "half")
	}
	again := follow(t, r.Bare, at)
	if again.Head() != first {
		t.Errorf("the copy has %q, want %s", again.Head(), first)
	}
	if err := again.Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "there is no git repository") {
		t.Errorf("fetch: %v", err)
	}
	b, err := again.Read(first)
	if err != nil || string(b.Files["policy.yaml"]) != "one" {
		t.Errorf("read %+v, %v", b, err)
	}
	for _, left := range []string{"incoming-1", "objects/pack/tmp_pack_1"} {
		if _, err := os.Stat(filepath.Join(mirror, left)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", left, err)
		}
	}
}

func TestRepositoryMendsItsCopy(t *testing.T) {
	r := gitrepo.New(t)
	r.Write("policy.yaml", "one")
	r.Commit("Begin")
	mirror := filepath.Join(t.TempDir(), "policy.git")
	repo := follow(t, r.Bare, func(c *policy.RepositoryConfig) { c.Mirror = mirror })
	want := fetched(t, repo).Revision
	packs, err := filepath.Glob(filepath.Join(mirror, "objects", "pack", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	for _, pack := range packs {
		if err := os.Remove(pack); err != nil {
			t.Fatal(err)
		}
	}
	repo = follow(t, r.Bare, func(c *policy.RepositoryConfig) { c.Mirror = mirror })
	if repo.Head() != "" {
		t.Errorf("a copy without objects says that it has %s", repo.Head())
	}
	if got := fetched(t, repo); got.Revision != want {
		t.Errorf("mended: %s, want %s", got.Revision, want)
	}
}

func TestManyFetchesBecomeOne(t *testing.T) {
	r := gitrepo.New(t)
	mirror := filepath.Join(t.TempDir(), "policy.git")
	repo := follow(t, r.Bare, func(c *policy.RepositoryConfig) { c.Mirror = mirror })
	var last string
	for i := range 55 {
		r.Write("policy.yaml", fmt.Sprint(i))
		last = r.Commit("x")
		if b := fetched(t, repo); b.Revision != last {
			t.Fatalf("read %s, want %s", b.Revision, last)
		}
	}
	packs, err := filepath.Glob(filepath.Join(mirror, "objects", "pack", "*.pack"))
	if err != nil || len(packs) > 10 {
		t.Errorf("the copy has %d packs, %v", len(packs), err)
	}
	if left, err := filepath.Glob(mirror + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A remote that is not what it should be is an error that says so, in bounded time; what was fetched before stays.
func TestRepositoryRefusesRemotes(t *testing.T) {
	answer := func(contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = io.WriteString(w, body)
		}
	}
	const advertisement = "application/x-git-upload-pack-advertisement"
	for _, tt := range []struct {
		name  string
		fault http.HandlerFunc
		want  string
	}{
		{"gone", gitrepo.Gone, "EOF"},
		{"hanging", gitrepo.Hang, "no answer in time"},
		{"broken", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "x", http.StatusInternalServerError) }, "500"},
		{"without this repository", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "x", http.StatusNotFound) }, "no such repository"},
		{"one that wants another password", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "x", http.StatusUnauthorized) }, "password_file"},
		{"a web page", answer("text/html", "<html>"), "no address of a git repository over smart HTTP"},
		{"redirecting", func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "https://elsewhere.example.com/x", http.StatusFound)
		}, "redirects to https://elsewhere.example.com/x"},
		{"talking nonsense", answer(advertisement, "zzzznonsense"), "read the branches"},
		{"without a commit", answer(advertisement, "001e# service=git-upload-pack\n00000000"), "no commit yet"},
		{"empty", answer(advertisement, ""), "read the branches"},
		{"with branches without end", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", advertisement)
			_, _ = io.WriteString(w, "001e# service=git-upload-pack\n0000")
			line := strings.Repeat("1", 40) + " refs/heads/" + strings.Repeat("x", 1000)
			for i := range 40000 {
				capabilities := ""
				if i == 0 {
					capabilities = "\x00ofs-delta"
				}
				if _, err := fmt.Fprintf(w, "%04x%s%06d%s\n", len(line)+11+len(capabilities), line, i, capabilities); err != nil {
					return
				}
			}
		}, "sends more than 16777216 bytes"},
		{"sending half of its branches and then nothing", func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", advertisement)
			_, _ = io.WriteString(w, "001e# service=git-upload-pack\n0000")
			_ = http.NewResponseController(w).Flush()
			<-q.Context().Done()
		}, "no answer in time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := gitrepo.New(t)
			r.Write("policy.yaml", "one")
			first := r.Commit("Begin")
			s := gitrepo.Serve(t, r)
			repo := follow(t, s.URL, overHTTPS(s))
			fetched(t, repo)
			s.Fail(tt.fault)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if err := repo.Fetch(ctx); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			s.Fail(nil)
			if b := fetched(t, repo); b.Revision != first {
				t.Errorf("afterwards: %s, want %s", b.Revision, first)
			}
		})
	}
}

// A pack that is too large, or unfolds to too much, is not taken.
func TestRepositoryBoundsWhatItFetches(t *testing.T) {
	noise := func(n int) string {
		b := make([]byte, n)
		rand.Read(b)
		return string(b)
	}
	for _, tt := range []struct {
		name string
		make func(r *gitrepo.Repo)
		want string
	}{
		{"more bytes than may be sent", func(r *gitrepo.Repo) {
			for i := range 3 {
				r.Write(fmt.Sprintf("noise%d", i), noise(900<<10))
			}
		}, "sends more than 1048576 bytes"},
		{"a small object that unfolds to a large one", func(r *gitrepo.Repo) {
			r.Write("zeros", strings.Repeat("\x00", 3<<20))
		}, "an object of 3145728 bytes"},
		{"many that unfold to much together", func(r *gitrepo.Repo) {
			for i := range 20 {
				r.Write(fmt.Sprintf("zeros%d", i), fmt.Sprint(i)+strings.Repeat("\x00", 1000<<10))
			}
		}, "unfold to more than 16777216 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := gitrepo.New(t)
			r.Write("policy.yaml", "one")
			first := r.Commit("Begin")
			s := gitrepo.Serve(t, r)
			for name, url := range map[string]string{"https": s.URL, "path": r.Bare} {
				r.Git("reset", "-q", "--hard", first)
				r.Push()
				mirror := filepath.Join(t.TempDir(), "policy.git")
				repo := follow(t, url, overHTTPS(s), func(c *policy.RepositoryConfig) { c.MaxBytes, c.Mirror = 1<<20, mirror })
				fetched(t, repo)
				tt.make(r)
				r.Commit("Much")
				if err := repo.Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: got %v, want %q", name, err, tt.want)
				}
				if repo.Head() != first {
					t.Errorf("%s: the copy has %s, want %s", name, repo.Head(), first)
				}
				if size := folderSize(t, mirror); size > 1<<20 {
					t.Errorf("%s: the copy has %d bytes", name, size)
				}
			}
		})
	}
}

func folderSize(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		size += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func TestRepositoryNamesTheBranchesThereAre(t *testing.T) {
	r := gitrepo.New(t)
	s := gitrepo.Serve(t, r)
	other := func(c *policy.RepositoryConfig) { c.Branch = "production" }
	for name, url := range map[string]string{"https": s.URL, "path": r.Bare} {
		if err := follow(t, url, overHTTPS(s)).Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "no commit yet") && !strings.Contains(err.Error(), `no branch "main", and no other`) {
			t.Errorf("%s, empty: %v", name, err)
		}
	}
	r.Write("policy.yaml", "one")
	r.Commit("Begin")
	for name, url := range map[string]string{"https": s.URL, "path": r.Bare} {
		if err := follow(t, url, overHTTPS(s), other).Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), `no branch "production"; it has main`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	shallow := filepath.Join(t.TempDir(), "shallow")
	r.Commit("Second")
	if out, err := r.Try("", "clone", "-q", "--bare", "--depth", "1", "file://"+r.Bare, shallow); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := follow(t, shallow).Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "shallow clone") {
		t.Errorf("a shallow clone: %v", err)
	}
	r.Bare = shallow
	served := gitrepo.Serve(t, r)
	if err := follow(t, served.URL, overHTTPS(served)).Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "shallow clone") {
		t.Errorf("a shallow clone over https: %v", err)
	}
}

// What a commit may not hold is the fault of the commit.
func TestRepositoryRefusesCommits(t *testing.T) {
	tree := func(r *gitrepo.Repo, entries ...string) string {
		var b strings.Builder
		for i := 0; i < len(entries); i += 3 {
			fmt.Fprintf(&b, "%s %s\x00%s", entries[i], entries[i+1], unhex(t, entries[i+2]))
		}
		return r.Object("tree", b.String())
	}
	commit := func(r *gitrepo.Repo, tree string) {
		who := "Mallory <mallory@example.com> 1700000000 +0000"
		r.Point(r.Object("commit", "tree "+tree+"\nparent "+r.Head()+"\nauthor "+who+"\ncommitter "+who+"\n\nx\n"))
	}
	for _, tt := range []struct {
		name string
		make func(r *gitrepo.Repo)
		want string
	}{
		{"a link", func(r *gitrepo.Repo) {
			if err := os.Symlink("/etc", filepath.Join(r.Dir, "teams")); err != nil {
				t.Fatal(err)
			}
			r.Commit("x")
		}, "teams is a symbolic link"},
		{"a submodule", func(r *gitrepo.Repo) {
			r.Git("update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",teams")
			r.Git("commit", "-q", "-m", "x")
			r.Push()
		}, "teams is a submodule"},
		{"a pointer to LFS", func(r *gitrepo.Repo) {
			r.Write("a.yaml", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
			r.Commit("x")
		}, "a.yaml is a Git LFS pointer"},
		{"a huge file", func(r *gitrepo.Repo) {
			r.Write("a.yaml", strings.Repeat("x", 2<<20))
			r.Commit("x")
		}, "a.yaml has 2097152 bytes"},
		{"files that are one on some machines", func(r *gitrepo.Repo) {
			r.Write("teams/a.yaml", "")
			r.Write("Teams/b.yaml", "")
			r.Commit("x")
		}, "Teams and teams differ in large and small letters only"},
		{"files that differ in letters beyond ASCII", func(r *gitrepo.Repo) {
			r.Write("teams/É.yaml", "")
			r.Write("teams/é.yaml", "")
			r.Commit("x")
		}, "differ in large and small letters only"},
		{"a name with a line break", func(r *gitrepo.Repo) {
			r.Write("a\nb.yaml", "")
			r.Commit("x")
		}, "is no name for a policy file"},
		{"a name with a slash", func(r *gitrepo.Repo) {
			commit(r, tree(r, "100644", "x/../policy.yaml", r.Object("blob", "evil")))
		}, "which is no name"},
		{"one name twice", func(r *gitrepo.Repo) {
			commit(r, tree(r, "100644", "policy.yaml", r.Object("blob", "a"), "100644", "policy.yaml", r.Object("blob", "b")))
		}, "policy.yaml comes twice"},
		{"folders in folders, each ten times", func(r *gitrepo.Repo) {
			at := r.Object("blob", "x")
			mode := "100644"
			for range 12 {
				var entries []string
				for i := range 10 {
					entries = append(entries, mode, fmt.Sprintf("d%d", i), at)
				}
				at, mode = tree(r, entries...), "40000"
			}
			commit(r, at)
		}, "more than 100000 entries"},
		{"without the folder", func(r *gitrepo.Repo) {
			r.Git("rm", "-q", "-r", ".")
			r.Commit("x")
		}, "has no folder sub"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := gitrepo.New(t)
			r.Write("policy.yaml", "one")
			folder := "."
			if strings.Contains(tt.want, "sub") && strings.Contains(tt.want, "no folder") {
				folder = "sub"
				r.Write("sub/policy.yaml", "one")
			}
			r.Commit("Begin")
			repo := follow(t, r.Bare, func(c *policy.RepositoryConfig) { c.Folder = folder })
			fetched(t, repo)
			tt.make(r)
			if err := repo.Fetch(t.Context()); err != nil {
				t.Fatal(err)
			}
			b, err := repo.Read(repo.Head())
			fault, ok := errors.AsType[*policy.Fault](err)
			if !ok || fault.Kind != pb.PolicyFault_POLICY_FAULT_BROKEN || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want the fault broken with %q", err, tt.want)
			}
			if b == nil || b.Revision != repo.Head() || b.Commit == nil {
				t.Errorf("the bundle does not say which commit it is: %+v", b)
			}
		})
	}
}

func unhex(t *testing.T, s string) string {
	t.Helper()
	var b []byte
	if _, err := fmt.Sscanf(s, "%x", &b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParseRemote(t *testing.T) {
	for _, tt := range []struct {
		in   string
		kind policy.RemoteKind
		url  string
	}{
		{"https://git.example.com/ops/policy.git", policy.RemoteHTTPS, "https://git.example.com/ops/policy.git"},
		{"https://git.example.com:8443/ops/policy/", policy.RemoteHTTPS, "https://git.example.com:8443/ops/policy"},
		{"http://127.0.0.1:1/x", policy.RemoteHTTP, "http://127.0.0.1:1/x"},
		{"ssh://git@git.example.com:2222/ops/policy.git", policy.RemoteSSH, "ssh://git@git.example.com:2222/ops/policy.git"},
		{"git@git.example.com:ops/policy.git", policy.RemoteSSH, "ssh://git@git.example.com/ops/policy.git"},
		{"/srv/policy.git", policy.RemotePath, "/srv/policy.git"},
		{"../policy.git", policy.RemotePath, "../policy.git"},
		{"./a:b", policy.RemotePath, "./a:b"},
		{"file:///srv/policy.git", policy.RemotePath, "/srv/policy.git"},
	} {
		kind, u, err := policy.ParseRemote(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if diff := cmp.Diff(tt.url, u.String()); kind != tt.kind || diff != "" {
			t.Errorf("%s: kind %d, want %d, %s", tt.in, kind, tt.kind, diff)
		}
	}
	for _, tt := range []struct{ in, want string }{
		{"", "empty"},
		{"https://alice:xyzzy@git.example.com/x", "password in it"},
		{"https://alice@git.example.com/x", "username"},
		{"https:///x", "no address"},
		{"https://git.example.com/x?y=z", "no address"},
		{"git://git.example.com/x", "not followed over \"git\""},
		{"ext::sh -c x", "not followed"},
		{"ssh://-oProxyCommand=x/y", "no"},
		{"ssh://git.example.com/", "no address"},
		{"file://elsewhere/x", "another machine"},
		{"https://git.example.com/x\n", "no address"},
	} {
		_, _, err := policy.ParseRemote(tt.in)
		if err == nil || tt.in != "ext::sh -c x" && !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "xyzzy") {
			t.Errorf("%q: got %v, want %q", tt.in, err, tt.want)
		}
	}
}
