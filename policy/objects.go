package policy

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// Bounds of what is read of a repository that nobody vouches for.
const (
	maxCommit  = 1 << 20
	maxTree    = 8 << 20
	maxEntries = 100_000 // of all folders of a policy together: a few trees can name each other a billion times
	maxFolders = 64      // one inside the other
)

// objects reads the objects of a git repository by their ids. Each is held against its id, so that the commit which a decision
// cites vouches for every byte of the policy; nothing else of the repository is looked at.
type objects struct{ store storer.EncodedObjectStorer }

// errDamaged says that an object has not the bytes that its id stands for.
var errDamaged = errors.New("what is stored under this id is something else: the repository is damaged")

// noFolderError says that a commit does not have the folder of the policy.
type noFolderError struct{ commit, folder string }

func (e *noFolderError) Error() string {
	return fmt.Sprintf("commit %.12s has no folder %s", e.commit, e.folder)
}

// read returns an object that has at most limit bytes.
func (o objects) read(kind plumbing.ObjectType, id plumbing.Hash, limit int64) ([]byte, error) {
	size, err := o.store.EncodedObjectSize(id)
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", kind, id, err)
	}
	if size > limit {
		return nil, fmt.Errorf("read %s %s: it has %d bytes, more than %d", kind, id, size, limit)
	}
	encoded, err := o.store.EncodedObject(kind, id)
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", kind, id, err)
	}
	data, err := contents(encoded, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", kind, id, err)
	}
	if plumbing.ComputeHash(kind, data) != id {
		return nil, fmt.Errorf("read %s %s: %w", kind, id, errDamaged)
	}
	return data, nil
}

// bundle reads the files below a folder of a commit; "." is all of it.
func (o objects) bundle(id plumbing.Hash, folder string) (*Bundle, error) {
	raw, err := o.read(plumbing.CommitObject, id, maxCommit)
	if err != nil {
		return nil, err
	}
	commit, err := parseCommit(id, raw)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Revision: id.String(), Commit: commit, Files: map[string][]byte{}}
	w := treeWalk{objects: o, bundle: b}
	root, err := w.folder(commit.tree, folder)
	if err == nil {
		err = w.walk(root, "", 0)
	}
	if err == nil {
		err = b.distinct()
	}
	if _, ok := errors.AsType[*noFolderError](err); ok {
		return b, err
	}
	if err != nil {
		return b, fmt.Errorf("commit %.12s: %w", b.Revision, err)
	}
	return b, nil
}

// treeWalk adds the files of trees to a bundle.
type treeWalk struct {
	objects
	bundle  *Bundle
	total   int // bytes
	entries int
}

// tree reads the entries of a tree, whose order and names are whatever somebody wrote.
func (w *treeWalk) tree(id plumbing.Hash) ([]object.TreeEntry, error) {
	raw, err := w.read(plumbing.TreeObject, id, maxTree)
	if err != nil {
		return nil, err
	}
	encoded := &plumbing.MemoryObject{}
	encoded.SetType(plumbing.TreeObject)
	encoded.SetSize(int64(len(raw)))
	if _, err := encoded.Write(raw); err != nil {
		return nil, err
	}
	var tree object.Tree
	if err := tree.Decode(encoded); err != nil {
		return nil, fmt.Errorf("read tree %s: %w", id, err)
	}
	if w.entries += len(tree.Entries); w.entries > maxEntries {
		return nil, unfit("its folders have more than %d entries: keep the policy in a folder of its own", maxEntries)
	}
	return tree.Entries, nil
}

// folder returns the tree of a folder below root.
func (w *treeWalk) folder(root plumbing.Hash, folder string) (plumbing.Hash, error) {
	if folder == "." {
		return root, nil
	}
	at := ""
	for name := range strings.SplitSeq(folder, "/") {
		at = path.Join(at, name)
		entries, err := w.tree(root)
		if err != nil {
			return root, err
		}
		found := false
		for _, entry := range entries {
			if entry.Name != name {
				continue
			}
			if err := followed(entry, at); err != nil {
				return root, err
			}
			if found = entry.Mode == filemode.Dir; found {
				root = entry.Hash
			}
			break
		}
		if !found {
			return root, &noFolderError{w.bundle.Revision, folder}
		}
	}
	return root, nil
}

func (w *treeWalk) walk(id plumbing.Hash, prefix string, depth int) error {
	if depth > maxFolders {
		return unfit("%s is %d folders deep", prefix, depth)
	}
	entries, err := w.tree(id)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name == "" || strings.Contains(entry.Name, "/") {
			return unfit("the folder %q has an entry called %q, which is no name", prefix, entry.Name)
		}
		name := path.Join(prefix, entry.Name)
		if hidden(name) {
			continue
		}
		if err := followed(entry, name); err != nil {
			return err
		}
		switch {
		case entry.Mode == filemode.Dir:
			err = w.walk(entry.Hash, name, depth+1)
		case path.Ext(name) == ".yaml":
			err = w.blob(entry.Hash, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// followed refuses what leads out of the commit.
func followed(entry object.TreeEntry, name string) error {
	switch entry.Mode {
	case filemode.Submodule:
		return unfit("%s is a submodule, and submodules are not followed: put the files there, or remove it", name)
	case filemode.Symlink:
		return unfit("%s is a symbolic link, and links are not followed: put the file there, or remove it", name)
	}
	return nil
}

func (w *treeWalk) blob(id plumbing.Hash, name string) error {
	size, err := w.store.EncodedObjectSize(id)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if err := w.bundle.admit(name, size, &w.total); err != nil {
		return err
	}
	data, err := w.read(plumbing.BlobObject, id, maxFile)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return w.bundle.add(name, data)
}

// parents returns those of a commit, as its bytes name them: no graft and no replacement counts.
func (o objects) parents(id plumbing.Hash) ([]plumbing.Hash, error) {
	raw, err := o.read(plumbing.CommitObject, id, maxCommit)
	if err != nil {
		return nil, err
	}
	var parents []plumbing.Hash
	header, _, _ := bytes.Cut(raw, []byte("\n\n"))
	for line := range bytes.Lines(header) {
		if hex, ok := bytes.CutPrefix(bytes.TrimSuffix(line, []byte("\n")), []byte("parent ")); ok {
			parents = append(parents, plumbing.NewHash(string(hex)))
		}
	}
	return parents, nil
}
