package policy

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a bundle.
const (
	maxFile  = 1 << 20
	maxFiles = 1000
	maxTotal = 16 << 20
)

// Bundle is a policy as files.
type Bundle struct {
	// Files are the .yaml files by slash-separated path below the policy folder.
	Files map[string][]byte
	// Source is the folder they came from.
	Source string
	// Revision is the git commit, in full; empty for a plain folder.
	Revision string
	// Commit is what git says of it; nil for a plain folder.
	Commit *Commit
	// Dirty says that the files differ from the commit.
	Dirty bool
	// Uncommitted says that the files are those of the commit, and the folder has others.
	Uncommitted bool
}

// ReadDir reads the policy in dir. If dir is a git work tree or a folder of one, the files are those of the commit that is
// checked out, whatever lies in the folder now; allowDirty takes those that lie there, and says so in Dirty if they differ.
// Of a plain folder the files are read as they are.
//
// Only files whose name ends in .yaml are read, none whose name or folder begins with a dot. Links and submodules are
// errors, never followed: what they name is not under the control of who reviews the policy.
func ReadDir(dir string, allowDirty bool) (*Bundle, error) {
	b, err := readDir(dir, allowDirty)
	if err != nil {
		return nil, fmt.Errorf("read policy %s: %w", dir, err)
	}
	return b, nil
}

func readDir(dir string, allowDirty bool) (*Bundle, error) {
	full, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if full, err = filepath.EvalSymlinks(full); err != nil { // the folder itself may be a link: the administrator named it
		return nil, err
	}
	tree, err := openWorkTree(full)
	if err != nil {
		return nil, err
	}
	if tree == nil {
		return readFolder(full)
	}
	committed, err := tree.committed()
	if err != nil && (!allowDirty || !isUncommitted(err)) {
		return nil, err
	}
	present, err := readFolder(full)
	if !allowDirty {
		committed.Uncommitted = err != nil || !sameFiles(committed.Files, present.Files)
		return committed, nil
	}
	if err != nil {
		return nil, err
	}
	if committed == nil {
		present.Dirty = true
		return present, nil
	}
	present.Revision, present.Commit = committed.Revision, committed.Commit
	present.Dirty = !sameFiles(committed.Files, present.Files)
	return present, nil
}

func sameFiles(a, b map[string][]byte) bool {
	for name, data := range a {
		if other, ok := b[name]; !ok || !bytes.Equal(data, other) {
			return false
		}
	}
	return len(a) == len(b)
}

// readFolder reads files as they lie in a folder.
func readFolder(dir string) (*Bundle, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	b := &Bundle{Source: dir, Files: map[string][]byte{}}
	total := 0
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".":
			return nil
		case hidden(name) && entry.IsDir():
			return fs.SkipDir
		case hidden(name) || entry.IsDir():
			return nil
		case entry.Type()&fs.ModeSymlink != 0:
			return unfit("%s is a symbolic link, and links are not followed: put the file there, or remove it", name)
		case path.Ext(name) != ".yaml":
			return nil
		case !entry.Type().IsRegular():
			return unfit("%s is not a regular file", name)
		}
		file, err := root.Open(filepath.FromSlash(name))
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		if err := b.admit(name, info.Size(), &total); err != nil {
			return err
		}
		data, err := io.ReadAll(io.LimitReader(file, maxFile+1)) // it may grow meanwhile
		if err != nil {
			return err
		}
		return b.add(name, data)
	})
	if err == nil {
		err = b.distinct()
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// hidden says whether the last part of name begins with a dot: what git, editors and forges keep for themselves.
func hidden(name string) bool { return strings.HasPrefix(path.Base(name), ".") }

// admit holds a file against the bounds before it is read.
func (b *Bundle) admit(name string, size int64, total *int) error {
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r == '\\' || !unicode.IsPrint(r) }) {
		return unfit("%q is no name for a policy file: use letters, digits and . _ -", name)
	}
	if size > maxFile {
		return unfit("%s has %d bytes: a policy file may have %d", name, size, maxFile)
	}
	if len(b.Files) >= maxFiles {
		return unfit("the folder has more than %d .yaml files", maxFiles)
	}
	if *total += int(size); *total > maxTotal {
		return unfit("the .yaml files have more than %d bytes together", maxTotal)
	}
	return nil
}

// distinct refuses names that differ in large and small letters only: on some machines they are one file, and whoever reviews
// the policy there sees the other one.
func (b *Bundle) distinct() error {
	folded := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(b.Files)) {
		for at := name; at != "."; at = path.Dir(at) {
			key := strings.ToLower(strings.ToUpper(at))
			if other, ok := folded[key]; ok && other != at {
				return unfit("%s and %s differ in large and small letters only, and are one on some machines: rename one", other, at)
			}
			folded[key] = at
		}
	}
	return nil
}

// add takes a file in.
func (b *Bundle) add(name string, data []byte) error {
	if _, twice := b.Files[name]; twice {
		return unfit("%s comes twice", name)
	}
	if len(data) > maxFile {
		return unfit("%s has more than %d bytes", name, maxFile)
	}
	if bytes.HasPrefix(data, []byte("version https://git-lfs.github.com/spec/")) {
		return unfit("%s is a Git LFS pointer, not a policy: store policies in git itself", name)
	}
	b.Files[name] = data
	return nil
}
