package policy

import (
	"fmt"
	"path"
	"path/filepath"

	"github.com/rogpeppe/go-internal/txtar"
)

// ReadArchive reads a policy and its tests from one txtar file: text between lines such as "-- policy.yaml --". Such a file is
// an example or a report of a mistake; a daemon never reads one.
func ReadArchive(name string) (*Bundle, error) {
	archive, err := txtar.ParseFile(name)
	if err != nil {
		return nil, fmt.Errorf("read policy %s: %w", name, err)
	}
	b := &Bundle{Source: name, Files: map[string][]byte{}}
	total := 0
	for _, f := range archive.Files {
		_, twice := b.Files[f.Name]
		switch {
		case !filepath.IsLocal(f.Name) || path.Clean(f.Name) != f.Name || path.Ext(f.Name) != ".yaml":
			err = fmt.Errorf("%q is no path of a .yaml file", f.Name)
		case twice:
			err = fmt.Errorf("%s comes twice", f.Name)
		default:
			if err = b.admit(f.Name, int64(len(f.Data)), &total); err == nil {
				err = b.add(f.Name, f.Data)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read policy %s: %w", name, err)
		}
	}
	return b, nil
}
