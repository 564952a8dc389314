package policy_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hallpass-ssh/hallpass/policy"
)

// repo is a git work tree in a folder of its own.
type repo struct {
	t   testing.TB
	dir string
}

func newRepo(t testing.TB) *repo {
	t.Helper()
	r := &repo{t, t.TempDir()}
	r.git("init", "-q", "-b", "main")
	return r
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "HOME="+r.dir,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) write(name, text string) {
	r.t.Helper()
	writeFile(r.t, filepath.Join(r.dir, name), text)
}

// commit commits everything and returns the hash.
func (r *repo) commit() string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "-m", "x")
	return r.git("rev-parse", "HEAD")
}

func writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func texts(b *policy.Bundle) map[string]string {
	out := map[string]string{}
	for name, data := range b.Files {
		out[name] = string(data)
	}
	return out
}

func TestReadDirReadsTheCommit(t *testing.T) {
	r := newRepo(t)
	r.write("policy.yaml", "one")
	r.write("teams/a.yaml", "a")
	r.write("README.md", "no policy")
	r.write(".github/workflows/ci.yaml", "not read")
	first := r.commit()
	want := map[string]string{"policy.yaml": "one", "teams/a.yaml": "a"}

	r.write("policy.yaml", "half a fi")
	r.write("extra.yaml", "untracked")
	b, err := policy.ReadDir(r.dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, texts(b)); diff != "" || b.Revision != first || b.Dirty || !b.Uncommitted {
		t.Errorf("revision %s, dirty %v, %s", b.Revision, b.Dirty, diff)
	}

	b, err = policy.ReadDir(r.dir, true)
	if err != nil {
		t.Fatal(err)
	}
	want["policy.yaml"], want["extra.yaml"] = "half a fi", "untracked"
	if diff := cmp.Diff(want, texts(b)); diff != "" || b.Revision != first || !b.Dirty {
		t.Errorf("as it lies there: revision %s, dirty %v, %s", b.Revision, b.Dirty, diff)
	}

	second := r.commit()
	b, err = policy.ReadDir(r.dir, true)
	if err != nil {
		t.Fatal(err)
	}
	clean, err := policy.ReadDir(r.dir, false)
	if err != nil || clean.Uncommitted {
		t.Errorf("a clean work tree has changes: %v, %v", clean.Uncommitted, err)
	}
	if b.Revision != second || b.Dirty {
		t.Errorf("a clean work tree: revision %s, dirty %v", b.Revision, b.Dirty)
	}
}

func TestReadDirReadsPackedCommits(t *testing.T) {
	r := newRepo(t)
	r.write("policy.yaml", strings.Repeat("one\n", 1000))
	r.commit()
	r.write("policy.yaml", strings.Repeat("one\n", 1000)+"two")
	r.commit()
	r.git("gc", "-q")
	b, err := policy.ReadDir(r.dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := texts(b)["policy.yaml"]; !strings.HasSuffix(got, "two") {
		t.Errorf("got %q", got)
	}
}

func TestReadDirReadsAFolderOfAWorkTree(t *testing.T) {
	r := newRepo(t)
	r.write("infra/ssh/policy.yaml", "one")
	r.write("other.yaml", "not below the folder")
	commit := r.commit()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(r.dir, "infra", "ssh"), link); err != nil {
		t.Fatal(err)
	}
	linked := newRepo(t)
	os.RemoveAll(linked.dir)
	r.git("worktree", "add", "-q", linked.dir, "HEAD")
	for name, dir := range map[string]string{
		"the folder":               filepath.Join(r.dir, "infra", "ssh"),
		"a link to the folder":     link,
		"one of a linked worktree": filepath.Join(linked.dir, "infra", "ssh"),
	} {
		b, err := policy.ReadDir(dir, false)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(map[string]string{"policy.yaml": "one"}, texts(b)); diff != "" || b.Revision != commit {
			t.Errorf("%s: revision %s, %s", name, b.Revision, diff)
		}
	}
}

func TestReadDirReadsAPlainFolder(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "policy.yaml"), "one")
	writeFile(t, filepath.Join(dir, "teams", "a.yaml"), "a")
	writeFile(t, filepath.Join(dir, "teams", ".a.yaml.swp"), "an editor's")
	b, err := policy.ReadDir(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"policy.yaml": "one", "teams/a.yaml": "a"}, texts(b)); diff != "" || b.Revision != "" || b.Dirty {
		t.Errorf("revision %q, dirty %v, %s", b.Revision, b.Dirty, diff)
	}
}

func TestReadDirRefuses(t *testing.T) {
	plain := func(prepare func(t *testing.T, dir string)) func(*testing.T) string {
		return func(t *testing.T) string {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "policy.yaml"), "version: 1\n")
			prepare(t, dir)
			return dir
		}
	}
	committed := func(prepare func(r *repo)) func(*testing.T) string {
		return func(t *testing.T) string {
			r := newRepo(t)
			r.write("policy.yaml", "version: 1\n")
			r.commit()
			prepare(r)
			return r.dir
		}
	}
	for _, tt := range []struct {
		name string
		dir  func(*testing.T) string
		want string
	}{
		{"a folder that is not there", func(t *testing.T) string { return filepath.Join(t.TempDir(), "x") }, "no such file"},
		{"a file of 2 MiB", plain(func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "big.yaml"), strings.Repeat("x", 2<<20))
		}), "big.yaml has 2097152 bytes: a policy file may have 1048576"},
		{"more than a thousand files", plain(func(t *testing.T, dir string) {
			for i := range 1001 {
				writeFile(t, filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), "")
			}
		}), "more than 1000 .yaml files"},
		{"more than 16 MiB", plain(func(t *testing.T, dir string) {
			for i := range 17 {
				writeFile(t, filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), strings.Repeat("x", 1<<20))
			}
		}), "more than 16777216 bytes together"},
		{"a symbolic link", plain(func(t *testing.T, dir string) {
			if err := os.Symlink("/etc/passwd", filepath.Join(dir, "x.yaml")); err != nil {
				t.Fatal(err)
			}
		}), "x.yaml is a symbolic link, and links are not followed"},
		{"a folder called .yaml in which a pointer to LFS lies", plain(func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "a.yaml", "b.yaml"), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
		}), "a.yaml/b.yaml is a Git LFS pointer"},
		{"a repository without a commit", func(t *testing.T) string { return newRepo(t).dir }, "nothing is committed yet"},
		{"a folder that is not in the commit", func(t *testing.T) string {
			r := newRepo(t)
			r.write("policy.yaml", "")
			r.commit()
			r.write("sub/policy.yaml", "")
			return filepath.Join(r.dir, "sub")
		}, "has no folder sub: nothing is committed yet"},
		{"a committed link", committed(func(r *repo) {
			if err := os.Symlink("policy.yaml", filepath.Join(r.dir, "teams")); err != nil {
				r.t.Fatal(err)
			}
			r.commit()
		}), "teams is a symbolic link, and links are not followed"},
		{"a submodule", committed(func(r *repo) {
			r.git("update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",teams")
			r.git("commit", "-q", "-m", "x")
		}), "teams is a submodule, and submodules are not followed"},
		{"a committed LFS pointer", committed(func(r *repo) {
			r.write("teams/a.yaml", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
			r.commit()
		}), "teams/a.yaml is a Git LFS pointer"},
		{"a committed file of 100 MiB", committed(func(r *repo) {
			r.write("big.yaml", string(bytes.Repeat([]byte("x"), 100<<20)))
			r.commit()
		}), "big.yaml has 104857600 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := policy.ReadDir(tt.dir(t), false)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestReadDirTakesAnUncommittedPolicyIfAsked(t *testing.T) {
	r := newRepo(t)
	r.write("policy.yaml", "one")
	b, err := policy.ReadDir(r.dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Files) != 1 || b.Revision != "" || !b.Dirty {
		t.Errorf("got %+v", b)
	}
}
