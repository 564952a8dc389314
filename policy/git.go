package policy

import (
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// workTree is a policy folder inside a git work tree. Only objects are read from git: no hook, filter or attribute runs.
type workTree struct {
	repo *git.Repository
	dir  string // the policy folder, absolute
	sub  string // the same below the root of the work tree, slash-separated; "." for the root
}

// errUncommitted says that the commit has no such policy yet.
var errUncommitted = errors.New("nothing is committed yet: commit the policy")

func isUncommitted(err error) bool { return errors.Is(err, errUncommitted) }

// openWorkTree returns the work tree that dir is in, or nil if it is in none. dir is absolute and without links.
func openWorkTree(dir string) (*workTree, error) {
	repo, err := git.PlainOpenWithOptions(dir, &git.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if errors.Is(err, git.ErrRepositoryNotExists) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the git repository: %w", err)
	}
	tree, err := repo.Worktree()
	if err != nil {
		return nil, fmt.Errorf("open the git work tree: %w", err)
	}
	root, err := filepath.EvalSymlinks(tree.Filesystem.Root())
	if err != nil {
		return nil, err
	}
	sub, err := filepath.Rel(root, dir)
	if err != nil {
		return nil, err
	}
	return &workTree{repo, dir, filepath.ToSlash(sub)}, nil
}

// committed reads the files of the commit that is checked out.
func (w *workTree) committed() (*Bundle, error) {
	head, err := w.repo.Head()
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return nil, errUncommitted
	}
	if err != nil {
		return nil, fmt.Errorf("find the commit: %w", err)
	}
	return w.at(head.Hash())
}

// at reads the files of a commit.
func (w *workTree) at(hash plumbing.Hash) (*Bundle, error) {
	commit, err := w.repo.CommitObject(hash)
	if err != nil {
		return nil, fmt.Errorf("read commit %s: %w", hash, err)
	}
	tree, err := commit.Tree()
	if err != nil {
		return nil, fmt.Errorf("read commit %s: %w", hash, err)
	}
	if w.sub != "." {
		if tree, err = tree.Tree(w.sub); errors.Is(err, object.ErrDirectoryNotFound) {
			return nil, fmt.Errorf("commit %.12s has no folder %s: %w", hash.String(), w.sub, errUncommitted)
		} else if err != nil {
			return nil, fmt.Errorf("read %s of commit %s: %w", w.sub, hash, err)
		}
	}
	b := &Bundle{Source: w.dir, Revision: hash.String(), Files: map[string][]byte{}}
	total := 0
	if err := w.walk(b, tree, "", &total); err != nil {
		return nil, fmt.Errorf("commit %.12s: %w", b.Revision, err)
	}
	return b, nil
}

// walk adds the files of a tree to b.
func (w *workTree) walk(b *Bundle, tree *object.Tree, prefix string, total *int) error {
	for _, entry := range tree.Entries {
		name := path.Join(prefix, entry.Name)
		switch {
		case hidden(name):
		case entry.Mode == filemode.Submodule:
			return fmt.Errorf("%s is a submodule, and submodules are not followed: put the files there, or remove it", name)
		case entry.Mode == filemode.Symlink:
			return fmt.Errorf("%s is a symbolic link, and links are not followed: put the file there, or remove it", name)
		case entry.Mode == filemode.Dir:
			below, err := w.repo.TreeObject(entry.Hash)
			if err != nil {
				return fmt.Errorf("read folder %s: %w", name, err)
			}
			if err := w.walk(b, below, name, total); err != nil {
				return err
			}
		case path.Ext(name) == ".yaml":
			if err := w.blob(b, entry, name, total); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *workTree) blob(b *Bundle, entry object.TreeEntry, name string, total *int) error {
	size, err := w.repo.Storer.EncodedObjectSize(entry.Hash)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if err := b.admit(name, size, total); err != nil {
		return err
	}
	blob, err := w.repo.BlobObject(entry.Hash)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	r, err := blob.Reader()
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return b.add(name, data)
}
