package policy

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
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
func (w *workTree) at(commit plumbing.Hash) (*Bundle, error) {
	b, err := objects{w.repo.Storer}.bundle(commit, w.sub)
	if _, ok := errors.AsType[*noFolderError](err); ok {
		return nil, fmt.Errorf("%w: %w", err, errUncommitted)
	}
	if err != nil {
		return nil, err
	}
	b.Source = w.dir
	return b, nil
}
