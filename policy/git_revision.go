package policy

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
)

// ReadRevision reads the policy in dir, a folder of a git work tree, as it is in a commit, which git names revision: a branch, a
// tag, HEAD~1, a hash. What lies in the folder does not count.
func ReadRevision(dir, revision string) (*Bundle, error) {
	b, err := readRevision(dir, revision)
	if err != nil {
		return nil, fmt.Errorf("read policy %s at %s: %w", dir, revision, err)
	}
	return b, nil
}

func readRevision(dir, revision string) (*Bundle, error) {
	full, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if full, err = filepath.EvalSymlinks(full); err != nil {
		return nil, err
	}
	tree, err := openWorkTree(full)
	if err != nil {
		return nil, err
	}
	if tree == nil {
		return nil, errors.New("it is in no git work tree")
	}
	hash, err := tree.repo.ResolveRevision(plumbing.Revision(revision))
	if err != nil {
		return nil, fmt.Errorf("there is no such commit in the repository: %w", err)
	}
	return tree.at(*hash)
}
