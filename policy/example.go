package policy

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:embed example/policy.yaml
var example embed.FS

// ExampleParams fills in the example policy. The zero value gives one that is meant to be edited.
type ExampleParams struct {
	// Login is one more login that the rules grant, besides deploy; empty for none.
	Login string
}

// WriteExample writes the example policy to dir, which must exist. It never replaces a file.
func WriteExample(dir string, p ExampleParams) error {
	text, err := example.ReadFile("example/policy.yaml")
	if err != nil {
		return fmt.Errorf("write the example policy: %w", err)
	}
	out := string(text)
	if p.Login != "" && p.Login != "deploy" {
		if !isLogin(p.Login) {
			return fmt.Errorf("write the example policy: %q is not a login: %s", p.Login, loginRule)
		}
		out = strings.ReplaceAll(out, "logins: [deploy]", `logins: [deploy, "`+p.Login+`"]`) // quoted: "null" is a login too
	}
	name := filepath.Join(dir, mainFile)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write the example policy: %w", err)
	}
	if _, err := f.WriteString(out); err != nil {
		f.Close()
		return fmt.Errorf("write the example policy: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write the example policy: %w", err)
	}
	return nil
}
