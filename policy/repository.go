package policy

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"golang.org/x/crypto/ssh"
)

const (
	// maxPacks is how many packs a mirror may gather, one a fetch, before it is made anew as one.
	maxPacks = 50
	// maxKnown is how many answers about descent are kept.
	maxKnown = 100
	// cacheSize is how much of the mirror is kept in memory while it is read.
	cacheSize = 16 << 20
)

// RepositoryConfig says which repository to follow, and how.
type RepositoryConfig struct {
	// URL is the address, as ParseRemote reads it. Required.
	URL string
	// Branch is followed. Required.
	Branch string
	// Folder is where the policy is in the repository, with slashes; "." for all of it. Required.
	Folder string
	// Mirror is the folder of the bare copy; made if it is not there. Required.
	Mirror string
	// MaxBytes bounds what one fetch may send. Required.
	MaxBytes int64

	// Username and Password, read anew for each fetch, are for https. Both may be empty.
	Username string
	Password func() (string, error)
	// CAFile holds the roots for https; empty for those of the system.
	CAFile string
	// Key, read anew for each fetch, and KnownHosts, a file, are for ssh, and required there.
	Key        func() (ssh.Signer, error)
	KnownHosts string
}

// Repository is a branch of a git repository that is followed: a bare copy of its history, of which only objects are ever read.
// Nothing is checked out, and no hook, filter or attribute runs. It is not safe for concurrent use.
type Repository struct {
	cfg    RepositoryConfig
	kind   RemoteKind
	url    *url.URL
	limits packLimits
	store  *filesystem.Storage
	// known are answers of Descends, which never change.
	known map[[2]string]bool
	// broken says that the mirror lacks what it should have, and must be made anew.
	broken bool
}

// OpenRepository opens the copy of a repository, or makes an empty one. It asks nobody.
func OpenRepository(cfg RepositoryConfig) (*Repository, error) {
	kind, u, err := ParseRemote(cfg.URL)
	if err != nil {
		return nil, err
	}
	r := &Repository{cfg: cfg, kind: kind, url: u, limits: newPackLimits(cfg.MaxBytes)}
	if err := r.tidy(); err != nil {
		return nil, fmt.Errorf("open the copy of the repository: %w", err)
	}
	if r.store, err = openMirror(cfg.Mirror); err != nil {
		return nil, fmt.Errorf("open the copy of the repository: %w", err)
	}
	return r, nil
}

func openMirror(dir string) (*filesystem.Storage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := filesystem.NewStorage(osfs.New(dir, osfs.WithBoundOS()), cache.NewObjectLRU(cacheSize))
	if _, err := os.Stat(filepath.Join(dir, "objects")); err == nil {
		return s, nil
	}
	return s, s.Init()
}

// tidy removes what a fetch left behind that did not end. A mirror that was being replaced is made anew by the next fetch.
func (r *Repository) tidy() error {
	left := []string{r.cfg.Mirror + ".new", r.cfg.Mirror + ".old"}
	for _, pattern := range []string{"incoming-*", filepath.Join("objects", "pack", "tmp_pack_*")} {
		found, err := filepath.Glob(filepath.Join(r.cfg.Mirror, pattern))
		if err != nil {
			return err
		}
		left = append(left, found...)
	}
	for _, name := range left {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

// Name is the address without what is secret in it.
func (r *Repository) Name() string { return strings.TrimSpace(r.cfg.URL) + " " + r.cfg.Branch }

func (r *Repository) ref() plumbing.ReferenceName {
	return plumbing.NewBranchReferenceName(r.cfg.Branch)
}

// Head is the commit that the branch had when it was last fetched; empty if it never was.
func (r *Repository) Head() string {
	if head := r.head(); !head.IsZero() {
		return head.String()
	}
	return ""
}

func (r *Repository) head() plumbing.Hash {
	ref, err := r.store.Reference(r.ref())
	if err != nil || r.broken || r.store.HasEncodedObject(ref.Hash()) != nil {
		return plumbing.ZeroHash
	}
	return ref.Hash()
}

// Fetch asks the remote for the branch, and takes over what is new. It ends when ctx does.
func (r *Repository) Fetch(ctx context.Context) error {
	err := r.fetch(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("no answer in time: %w", ctx.Err()) // what broke off where says nothing
	}
	if err != nil {
		return errors.Join(fmt.Errorf("fetch %s: %w", r.Name(), err), r.tidy())
	}
	return nil
}

func (r *Repository) fetch(ctx context.Context) error {
	from, err := r.dial(ctx)
	if err != nil {
		return err
	}
	defer from.close()
	tip, err := from.tip(ctx, r.cfg.Branch)
	if err != nil {
		return err
	}
	have := r.head()
	switch {
	case tip.IsZero():
		return fmt.Errorf("the remote says that the branch %s is no commit", r.cfg.Branch)
	case tip == have:
		return nil
	}
	if r.broken || r.crowded() {
		return r.anew(ctx, from, tip)
	}
	if r.store.HasEncodedObject(tip) != nil { // a branch that was set back to a commit from before brings nothing
		if err := r.take(ctx, r.store, r.cfg.Mirror, from, tip, have); err != nil {
			return err
		}
	}
	return r.store.SetReference(plumbing.NewHashReference(r.ref(), tip))
}

// take stores the history of tip in a mirror that has that of have.
func (r *Repository) take(ctx context.Context, s *filesystem.Storage, dir string, from remote, tip, have plumbing.Hash) error {
	pack, err := from.pack(ctx, tip, have)
	if err != nil {
		return err
	}
	err = r.limits.receive(ctx, dir, s, pack)
	if err := errors.Join(err, pack.Close()); err != nil {
		return err
	}
	s.Reindex()
	if s.HasEncodedObject(tip) != nil {
		return fmt.Errorf("the remote did not send the commit %s, which it says the branch has", tip)
	}
	return nil
}

// anew makes the mirror again, in place of the one there is.
func (r *Repository) anew(ctx context.Context, from remote, tip plumbing.Hash) error {
	dir, old := r.cfg.Mirror+".new", r.cfg.Mirror+".old"
	fresh, err := openMirror(dir)
	if err != nil {
		return err
	}
	if err := r.take(ctx, fresh, dir, from, tip, plumbing.ZeroHash); err != nil {
		return err
	}
	if err := fresh.SetReference(plumbing.NewHashReference(r.ref(), tip)); err != nil {
		return err
	}
	if err := os.Rename(r.cfg.Mirror, old); err != nil {
		return err
	}
	if err := os.Rename(dir, r.cfg.Mirror); err != nil {
		return err
	}
	if r.store, err = openMirror(r.cfg.Mirror); err != nil {
		return err
	}
	r.broken = false
	return os.RemoveAll(old)
}

// crowded says whether fetches have added up to more than the repository can be.
func (r *Repository) crowded() bool {
	packs, err := filepath.Glob(filepath.Join(r.cfg.Mirror, "objects", "pack", "*.pack"))
	if err != nil || len(packs) < 2 {
		return false
	}
	size := int64(0)
	for _, pack := range packs {
		if info, err := os.Stat(pack); err == nil {
			size += info.Size()
		}
	}
	return len(packs) >= maxPacks || size > r.cfg.MaxBytes
}

// dial reaches the remote.
func (r *Repository) dial(ctx context.Context) (remote, error) {
	switch r.kind {
	case RemotePath:
		return openLocal(r.url.Path, r.limits)
	case RemoteSSH:
		key, err := r.cfg.Key()
		if err != nil {
			return nil, err
		}
		return dialSSH(ctx, r.url, key, r.cfg.KnownHosts)
	}
	var roots *x509.CertPool
	if r.cfg.CAFile != "" {
		pem, err := os.ReadFile(r.cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read roots: %w", err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", r.cfg.CAFile)
		}
	}
	password := ""
	if r.cfg.Password != nil {
		var err error
		if password, err = r.cfg.Password(); err != nil {
			return nil, err
		}
	}
	return newHTTPRemote(r.url, r.cfg.Username, password, roots), nil
}

// Read returns the policy of a commit that was fetched. What it could read so far, the revision for one, comes with an error too.
func (r *Repository) Read(revision string) (*Bundle, error) {
	b, err := objects{r.store}.bundle(plumbing.NewHash(revision), r.cfg.Folder)
	if b == nil {
		b = &Bundle{Revision: revision}
	}
	b.Source = r.Name()
	if _, ok := errors.AsType[*noFolderError](err); ok {
		return b, unfit("%w: push it, or look at policy.repository.folder", err)
	}
	if err != nil {
		r.suspect(err)
		return b, fmt.Errorf("read policy: %w", err)
	}
	return b, nil
}

// suspect looks whether an error means that the mirror is damaged, so that the next fetch makes it anew.
func (r *Repository) suspect(err error) {
	r.broken = r.broken || errors.Is(err, plumbing.ErrObjectNotFound) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, errDamaged)
}

// Descends says whether a commit is an ancestor of another, or the same, by walking the whole history if it must. Only what the
// commits themselves say counts: there is no time in it, and no graft.
func (r *Repository) Descends(ctx context.Context, revision, ancestor string) (bool, error) {
	question := [2]string{revision, ancestor}
	if answer, ok := r.known[question]; ok {
		return answer, nil
	}
	answer, err := r.walk(ctx, revision, ancestor)
	if err == nil {
		if r.known == nil || len(r.known) >= maxKnown {
			r.known = map[[2]string]bool{}
		}
		r.known[question] = answer
	}
	return answer, err
}

func (r *Repository) walk(ctx context.Context, revision, ancestor string) (bool, error) {
	target := plumbing.NewHash(ancestor)
	next := []plumbing.Hash{plumbing.NewHash(revision)}
	seen := map[plumbing.Hash]bool{next[0]: true}
	for len(next) > 0 {
		if next[0] == target {
			return true, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		parents, err := objects{r.store}.parents(next[0])
		if err != nil {
			r.suspect(err)
			return false, fmt.Errorf("walk the history of %s: %w", revision, err)
		}
		next = next[1:]
		for _, p := range parents {
			if !seen[p] {
				seen[p] = true
				next = append(next, p)
			}
		}
	}
	return false, nil
}

// FetchTimeout is how long a fetch may take unless somebody says otherwise.
const FetchTimeout = time.Minute
