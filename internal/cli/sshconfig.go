package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
)

// hostPatternBytes are what a host pattern of the CA may hold. It goes into a line that ssh obeys, so nothing else does.
const hostPatternBytes = "abcdefghijklmnopqrstuvwxyz0123456789.*?-"

// defaultIdentities are the keys that ssh tries by itself, in its order, until a configuration names one.
var defaultIdentities = []string{"id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk"}

const (
	includeComment = "# hallpass: certificates for the hosts of the CA"
	ownHeader      = "# Written by hallpass setup, and again at each login. hallpass setup --undo removes it.\n"
)

// sshConfig is the user's ssh configuration and our own file beside it.
type sshConfig struct {
	main, own string
}

// openSSHConfig finds the configuration: file, HALLPASS_SSH_CONFIG, or the user's.
func openSSHConfig(file string) (sshConfig, error) {
	if file == "" {
		file = os.Getenv("HALLPASS_SSH_CONFIG")
	}
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return sshConfig{}, fmt.Errorf("find the home folder: %w", err)
		}
		file = filepath.Join(home, ".ssh", "config")
	}
	file, err := filepath.Abs(file)
	if err != nil {
		return sshConfig{}, err
	}
	own := filepath.Join(filepath.Dir(file), "hallpass.conf")
	if err := checkConfigPath(own); err != nil {
		return sshConfig{}, err
	}
	return sshConfig{file, own}, nil
}

// checkConfigPath refuses a path that cannot be written into ssh_config.
func checkConfigPath(path string) error {
	if strings.ContainsAny(path, "\"\n\r") || strings.Contains(path, "${") {
		return fmt.Errorf("the path %q cannot be named in an ssh configuration", path)
	}
	return nil
}

// include is what stands at the top of the main file.
func (s sshConfig) include() string {
	return includeComment + "\nInclude \"" + globQuote(s.own) + "\"\n\n"
}

// globQuote takes the meaning of patterns from the characters of an Include path, which ssh expands by glob(3).
func globQuote(path string) string {
	return strings.NewReplacer("*", "[*]", "?", "[?]", "[", "[[]").Replace(path)
}

// block is the text of our own file.
//
// "Match final" sees the HostName and User that all other lines came to; a plain "Match host" at the top would not. The key is
// named without ".pub": ssh finds its public half beside it, and its private half in the agent or, without one, right there.
// Naming any IdentityFile ends ssh's search for the default ones, so those that exist follow.
//
// Names with a quote, which would end the one around them in the shell that runs exec, do not match. Older versions of ssh take
// such names from a command line, and git that of a submodule (CVE-2023-51385).
func block(program string, c certs, patterns, identities []string) (string, error) {
	if len(patterns) == 0 {
		return ownHeader + "# The CA knows no host yet.\n", nil
	}
	for _, p := range patterns {
		if p == "" || strings.Trim(p, hostPatternBytes) != "" {
			return "", fmt.Errorf("the CA names hosts by %q, which cannot be written into an ssh configuration", plain(p))
		}
	}
	for _, path := range []string{program, c.dir} {
		if err := checkConfigPath(path); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	b.WriteString(ownHeader)
	fmt.Fprintf(&b, "Match final host \"!*'*,%s\" user \"!*'*,*\" exec \"%s match '%%h' '%%r'\"\n", strings.Join(patterns, ","), shellQuote(program))
	for _, line := range c.sshOptions() {
		b.WriteString("    " + line + "\n")
	}
	for _, identity := range identities {
		b.WriteString("    IdentityFile " + identity + "\n")
	}
	return b.String(), nil
}

// sshOptions are the lines that make ssh use the certificates of the folder. `hallpass ssh` gives the same, to the byte, so that
// ssh takes those of the configuration for repetitions.
func (c certs) sshOptions() []string {
	dir := escapePercent(c.dir) + string(filepath.Separator)
	options := []string{`CertificateFile "` + dir + `%r@%h-cert.pub"`, `IdentityFile "` + dir + `key"`}
	// ssh-keygen and ssh-agent follow this variable by themselves; ssh, built with a provider of its own, does not.
	if provider := os.Getenv("SSH_SK_PROVIDER"); provider != "" && checkConfigPath(provider) == nil && c.keys().IsSecurityKey() {
		options = append(options, `SecurityKeyProvider "`+provider+`"`)
	}
	return options
}

func escapePercent(path string) string { return strings.ReplaceAll(path, "%", "%%") }

// shellQuote makes path one word for the shell that runs "Match exec", after ssh expanded its tokens.
func shellQuote(path string) string {
	path = escapePercent(path)
	if strings.Trim(strings.ToLower(path), "abcdefghijklmnopqrstuvwxyz0123456789/._+-") == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// identities are the default keys of the user that exist, as ssh names them.
func identities(sshDir string) []string {
	var found []string
	for _, name := range defaultIdentities {
		for _, file := range []string{name, name + ".pub"} {
			if _, err := os.Stat(filepath.Join(sshDir, file)); err == nil {
				found = append(found, "~/.ssh/"+name)
				break
			}
		}
	}
	return found
}

// wanted is the text of our own file for these environments.
func (s sshConfig) wanted(environments []*pb.Environment) (string, error) {
	program, err := self()
	if err != nil {
		return "", err
	}
	c, err := openCerts()
	if err != nil {
		return "", err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home folder: %w", err)
	}
	return block(program, c, hostPatterns(environments), identities(filepath.Join(home, ".ssh")))
}

// self is the path of this program. The one that the user types is better than the one it links to, which may go away with
// the next version.
func self() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		typed := filepath.Join(dir, filepath.Base(os.Args[0]))
		if filepath.IsAbs(typed) && sameFile(typed, program) {
			return typed, nil
		}
	}
	return program, nil
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// content is what a file holds, if it is there: an empty file is not none.
type content struct {
	there bool
	text  string
}

// read returns what a file holds.
func read(file string) (content, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return content{}, nil
	}
	if err != nil {
		return content{}, fmt.Errorf("read ssh configuration: %w", err)
	}
	return content{true, string(text)}, nil
}

// withInclude puts the Include at the top: inside a Host block it would count for that host only.
func (s sshConfig) withInclude(text string) string {
	return s.include() + s.withoutInclude(text)
}

// withoutInclude takes the Include out, wherever it was moved to.
func (s sshConfig) withoutInclude(text string) string {
	if strings.Contains(text, s.include()) {
		return strings.Replace(text, s.include(), "", 1)
	}
	lines := strings.SplitAfter(text, "\n")
	ours := strings.Split(s.include(), "\n")
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool {
		line = strings.TrimSpace(line)
		return line != "" && slices.Contains(ours, line)
	}), "")
}

// installed tells whether setup was run.
func (s sshConfig) installed() bool {
	main, err := read(s.main)
	if err != nil || !strings.Contains(main.text, s.include()) {
		return false
	}
	_, err = os.Stat(s.own)
	return err == nil
}

// hostPatterns are the patterns of all environments, each once.
func hostPatterns(environments []*pb.Environment) []string {
	var all []string
	for _, e := range environments {
		all = append(all, e.GetHosts()...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
