package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/revlist"
)

// localRemote is a repository on this machine, bare or not. Its objects go through the same gate as those of any other.
type localRemote struct {
	repo   *git.Repository
	limits packLimits
}

func openLocal(path string, limits packLimits) (*localRemote, error) {
	repo, err := git.PlainOpenWithOptions(path, &git.PlainOpenOptions{EnableDotGitCommonDir: true})
	if errors.Is(err, git.ErrRepositoryNotExists) {
		return nil, errors.New("there is no git repository")
	}
	if err != nil {
		return nil, fmt.Errorf("open the git repository: %w", err)
	}
	return &localRemote{repo, limits}, nil
}

func (r *localRemote) tip(_ context.Context, branch string) (plumbing.Hash, error) {
	shallow, err := r.repo.Storer.Shallow()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	if len(shallow) > 0 {
		return plumbing.ZeroHash, errors.New("the remote is a shallow clone: its history is cut off, so nothing can be told to descend from anything. Name the full repository")
	}
	ref, err := r.repo.Reference(plumbing.NewBranchReferenceName(branch), true)
	if err == nil {
		return ref.Hash(), nil
	}
	if !errors.Is(err, plumbing.ErrReferenceNotFound) {
		return plumbing.ZeroHash, fmt.Errorf("read the branch %s: %w", branch, err)
	}
	names, err := r.branches()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	return plumbing.ZeroHash, noBranch(branch, names)
}

func (r *localRemote) branches() ([]string, error) {
	refs, err := r.repo.References()
	if err != nil {
		return nil, err
	}
	var names []string
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		if name, ok := strings.CutPrefix(string(ref.Name()), "refs/heads/"); ok {
			names = append(names, name)
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

func (r *localRemote) pack(ctx context.Context, want, have plumbing.Hash) (io.ReadCloser, error) {
	var known []plumbing.Hash
	if !have.IsZero() {
		known = append(known, have)
	}
	ids, err := revlist.Objects(r.repo.Storer, []plumbing.Hash{want}, known)
	if err != nil {
		return nil, fmt.Errorf("walk the history of %s: %w", want, err)
	}
	if err := r.admit(ctx, ids); err != nil {
		return nil, err
	}
	reader, writer := io.Pipe()
	go func() { // ends when all is read or the reader is closed
		_, err := packfile.NewEncoder(writer, r.repo.Storer, false).Encode(ids, 0)
		writer.CloseWithError(err)
	}()
	return reader, nil
}

// admit holds the objects against the bounds before any is read: reading takes as much memory as they are large.
func (r *localRemote) admit(ctx context.Context, ids []plumbing.Hash) error {
	if len(ids) > r.limits.objects {
		return r.limits.tooMany(len(ids))
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		size, err := r.repo.Storer.EncodedObjectSize(id)
		if err != nil {
			return fmt.Errorf("read object %s: %w", id, err)
		}
		if size > r.limits.object {
			return r.limits.tooLarge(id.String(), size)
		}
	}
	return nil
}

func (r *localRemote) close() {}
