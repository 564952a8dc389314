package daemon

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/hallpass-ssh/hallpass/internal/audit"
)

const (
	// witnessBranch is where checkpoints are committed, whatever else the repository holds.
	witnessBranch = plumbing.ReferenceName("refs/heads/hallpass-checkpoints")
	// witnessFile is the one file of each commit.
	witnessFile = "checkpoint"
)

// commitCheckpoint adds a commit with a checkpoint to the branch of a repository, bare or not. Whoever fetches the branch notices if
// it is rewritten.
func commitCheckpoint(dir string, checkpoint []byte, now time.Time) error {
	repo, err := git.PlainOpen(dir)
	if errors.Is(err, git.ErrRepositoryNotExists) {
		return fmt.Errorf("%w: make it with `git init --bare %s`", err, dir)
	}
	if err != nil {
		return err
	}
	c, err := audit.ReadCheckpoint(checkpoint)
	if err != nil {
		return err
	}
	blob := &plumbing.MemoryObject{}
	blob.SetType(plumbing.BlobObject)
	if _, err := blob.Write(checkpoint); err != nil {
		return err
	}
	file, err := repo.Storer.SetEncodedObject(blob)
	if err != nil {
		return err
	}
	tree, err := encode(repo, &object.Tree{Entries: []object.TreeEntry{{Name: witnessFile, Mode: filemode.Regular, Hash: file}}})
	if err != nil {
		return err
	}
	author := object.Signature{Name: "hallpassd", Email: "hallpassd@localhost", When: now}
	commit := &object.Commit{Author: author, Committer: author, TreeHash: tree, Message: fmt.Sprintf("%d records of the log %s\n", c.Size, c.Origin())}
	before, err := repo.Reference(witnessBranch, true)
	switch {
	case err == nil:
		parent, err := repo.CommitObject(before.Hash())
		if err != nil {
			return err
		}
		if parent.TreeHash == tree {
			return nil // it is there already
		}
		commit.ParentHashes = []plumbing.Hash{before.Hash()}
	case !errors.Is(err, plumbing.ErrReferenceNotFound):
		return err
	}
	id, err := encode(repo, commit)
	if err != nil {
		return err
	}
	return repo.Storer.CheckAndSetReference(plumbing.NewHashReference(witnessBranch, id), before)
}

// encode puts an object into a repository.
func encode(repo *git.Repository, o interface {
	Encode(plumbing.EncodedObject) error
}) (plumbing.Hash, error) {
	encoded := repo.Storer.NewEncodedObject()
	if err := o.Encode(encoded); err != nil {
		return plumbing.ZeroHash, err
	}
	return repo.Storer.SetEncodedObject(encoded)
}
