package cli

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/hallpass-ssh/hallpass/policy"
	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
)

// formatOptions are the flags of `hallpass policy fmt`. None prints the files as they would be.
type formatOptions struct {
	write, list, diff bool
}

func (a *app) policyFormatCommand() *cobra.Command {
	var o formatOptions
	cmd := &cobra.Command{
		Use:   "fmt DIR",
		Short: "Format the files of a policy",
		Long: `Format the files of a policy and of its tests: keys in one order, one indentation, empty lines between sections. What they mean
never changes, comments stay, and conditions keep their form.

Without a flag the formatted files are printed. With -l or -d the exit code is 1 if a file is not formatted.`,
		Example: "  hallpass policy fmt -d ./policy\n  hallpass policy fmt -w ./policy",
		Args:    exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.write && (o.diff || o.list) {
				return usageError(cmd, errors.New("--write goes with neither --diff nor --list"))
			}
			return a.policyFormat(args[0], o)
		},
	}
	cmd.Flags().BoolVarP(&o.write, "write", "w", false, "write the files")
	cmd.Flags().BoolVarP(&o.diff, "diff", "d", false, "print what would change")
	cmd.Flags().BoolVarP(&o.list, "list", "l", false, "list the files that would change")
	return cmd
}

func (a *app) policyFormat(dir string, o formatOptions) error {
	bundle, err := policy.ReadDir(dir, true)
	if err != nil {
		return err
	}
	p, err := policy.Compile(bundle)
	if err != nil {
		return a.mistaken(err)
	}
	formatted, err := p.Format(bundle)
	if err != nil {
		return a.mistaken(err)
	}
	changed := []string{}
	for _, name := range slices.Sorted(maps.Keys(formatted)) {
		before, after := bundle.Files[name], formatted[name]
		if !o.write && !o.list && !o.diff && !a.json() {
			fmt.Fprint(a.out, plain(string(after)))
		}
		if bytes.Equal(before, after) {
			continue
		}
		changed = append(changed, name)
		switch {
		case o.write:
			if err := rewrite(filepath.Join(dir, filepath.FromSlash(name)), before, after); err != nil {
				return err
			}
		case o.diff && !a.json():
			fmt.Fprint(a.out, plain(string(diff.Diff(name+".orig", before, name, after))))
		}
	}
	return a.formatVerdict(dir, changed, o)
}

// formatVerdict prints which files are not formatted, and whether that is a failure.
func (a *app) formatVerdict(dir string, changed []string, o formatOptions) error {
	switch {
	case a.json():
		if err := a.printJSON(map[string][]string{"changed": changed}); err != nil {
			return err
		}
	case o.list || o.write:
		for _, name := range changed {
			fmt.Fprintln(a.out, plain(name))
		}
	}
	if len(changed) > 0 && (o.list || o.diff) {
		return &failure{
			exit: exitFailed, err: fmt.Errorf("%s not formatted", plural(len(changed), "file")), hint: "hallpass policy fmt -w " + dir,
		}
	}
	return nil
}

// rewrite replaces a file that still is what was read, keeping its mode. There is no moment at which the file is half written.
func rewrite(name string, before, after []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, err)
		}
	}()
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	now, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, before) {
		return errors.New("the file has changed since it was read: try again")
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".hallpass-fmt-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(after)
	if err := errors.Join(err, f.Chmod(info.Mode().Perm()), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
