package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
)

// maxAdvertised bounds what a server says about its branches.
const maxAdvertised = 16 << 20

// remote is a repository elsewhere, asked once: for the commit of a branch, then for what is needed to have it.
type remote interface {
	// tip returns the newest commit of a branch.
	tip(ctx context.Context, branch string) (plumbing.Hash, error)
	// pack returns all objects of a commit's history but those of have, if that is not zero.
	pack(ctx context.Context, want, have plumbing.Hash) (io.ReadCloser, error)
	close()
}

// RemoteKind is how a repository is reached.
type RemoteKind int

// The kinds.
const (
	RemoteHTTPS RemoteKind = iota + 1
	RemoteHTTP             // without TLS
	RemoteSSH
	RemotePath // of this machine
)

// scpLike is user@host:path, as git takes it: a colon before the first slash.
var scpLike = regexp.MustCompile(`^(?:([^/:@]+)@)?([^/:@]+|\[[0-9A-Fa-f:.]+\]):([^:].*)$`)

// ParseRemote reads the address of a repository: https://HOST/PATH, http:// (which hallpassd takes of this machine only),
// ssh://[USER@]HOST[:PORT]/PATH, [USER@]HOST:PATH, file:///PATH or a path. The URL of a path has nothing but the path.
func ParseRemote(s string) (RemoteKind, *url.URL, error) {
	if s == "" {
		return 0, nil, errors.New("the address of the repository is empty")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return 0, nil, fmt.Errorf("%q is no address of a repository", s)
	}
	if !strings.Contains(s, "://") {
		if m := scpLike.FindStringSubmatch(s); m != nil && !strings.HasPrefix(s, ".") {
			return remoteSSH(&url.URL{Scheme: "ssh", User: userOf(m[1]), Host: m[2], Path: m[3]})
		}
		if strings.Contains(s, "::") {
			return 0, nil, fmt.Errorf("repositories are not followed over helpers of git, as %q would be: use https, ssh or a path", s)
		}
		return RemotePath, &url.URL{Path: s}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return 0, nil, errors.New("the address of the repository is no URL") // the error would repeat a password
	}
	if _, has := u.User.Password(); has {
		return 0, nil, errors.New("the address of the repository has a password in it: put that into a file, and name it in password_file")
	}
	switch u.Scheme {
	case "https", "http":
		if u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return 0, nil, fmt.Errorf("%q is no address of a repository: write %s://HOST/PATH, and the user name in username", u.Redacted(), u.Scheme)
		}
		u.Path = strings.TrimSuffix(u.Path, "/")
		return map[string]RemoteKind{"https": RemoteHTTPS, "http": RemoteHTTP}[u.Scheme], u, nil
	case "ssh":
		if u.RawQuery != "" || u.Fragment != "" {
			return 0, nil, fmt.Errorf("%q is no address of a repository: write ssh://USER@HOST/PATH", s)
		}
		if strings.HasPrefix(u.Path, "/~") {
			u.Path = u.Path[1:]
		}
		return remoteSSH(u)
	case "file":
		if u.Host != "" && u.Host != "localhost" {
			return 0, nil, fmt.Errorf("%q names another machine: use https or ssh", s)
		}
		return RemotePath, &url.URL{Path: u.Path}, nil
	}
	return 0, nil, fmt.Errorf("repositories are not followed over %q: use https, ssh or a path", u.Scheme)
}

func remoteSSH(u *url.URL) (RemoteKind, *url.URL, error) {
	if u.Hostname() == "" || strings.Trim(u.Path, "/") == "" || strings.HasPrefix(u.Hostname(), "-") || strings.HasPrefix(u.Path, "-") {
		return 0, nil, fmt.Errorf("%q is no address of a repository: write ssh://USER@HOST/PATH or USER@HOST:PATH", u)
	}
	return RemoteSSH, u, nil
}

func userOf(name string) *url.Userinfo {
	if name == "" {
		return nil
	}
	return url.User(name)
}

// branchOf picks the commit of a branch from what a server advertises.
func branchOf(adv *packp.AdvRefs, branch string) (plumbing.Hash, error) {
	if len(adv.Shallows) > 0 {
		return plumbing.ZeroHash, errors.New("the remote is a shallow clone: its history is cut off, so nothing can be told to descend from anything. Name the full repository")
	}
	if tip, ok := adv.References[string(plumbing.NewBranchReferenceName(branch))]; ok {
		return tip, nil
	}
	var names []string
	for _, ref := range slices.Sorted(maps.Keys(adv.References)) {
		if name, ok := strings.CutPrefix(ref, "refs/heads/"); ok {
			names = append(names, name)
		}
	}
	return plumbing.ZeroHash, noBranch(branch, names)
}

func noBranch(branch string, names []string) error {
	const most = 10
	if len(names) == 0 {
		return fmt.Errorf("the remote has no branch %q, and no other", branch)
	}
	if len(names) > most {
		names = append(names[:most], "...")
	}
	return fmt.Errorf("the remote has no branch %q; it has %s", branch, strings.Join(names, ", "))
}

// decodeAdvertised reads the first answer of a server.
func decodeAdvertised(r io.Reader) (*packp.AdvRefs, error) {
	adv := packp.NewAdvRefs()
	err := adv.Decode(&budget{r: r, left: maxAdvertised, total: maxAdvertised})
	switch {
	case errors.Is(err, packp.ErrEmptyAdvRefs), err == nil && adv.IsEmpty():
		return nil, errors.New("the remote has no commit yet")
	case err != nil:
		return nil, fmt.Errorf("read the branches of the remote: %.300s", err.Error()) // it may repeat what the remote sent
	}
	if format := adv.Capabilities.Get("object-format"); len(format) > 0 && format[0] != "sha1" {
		return nil, fmt.Errorf("the remote names its objects by %s: only repositories with SHA-1 are followed", format[0])
	}
	return adv, nil
}

// wanted is what a server is asked: nothing thin, so that a pack is complete, and no tags.
func wanted(adv *packp.AdvRefs, want, have plumbing.Hash) (*packp.UploadPackRequest, []byte, error) {
	req := packp.NewUploadPackRequest()
	req.Wants = []plumbing.Hash{want}
	if !have.IsZero() {
		req.Haves = []plumbing.Hash{have}
	}
	for _, c := range []capability.Capability{capability.Sideband64k, capability.OFSDelta, capability.NoProgress} {
		if adv.Capabilities.Supports(c) {
			if err := req.Capabilities.Set(c); err != nil {
				return nil, nil, err
			}
		}
	}
	var b bytes.Buffer
	if err := req.UploadRequest.Encode(&b); err != nil {
		return nil, nil, err
	}
	if err := req.UploadHaves.Encode(&b, false); err != nil {
		return nil, nil, err
	}
	err := pktline.NewEncoder(&b).EncodeString("done\n")
	return req, b.Bytes(), err
}

// unpacked is the pack in an answer of a server.
func unpacked(req *packp.UploadPackRequest, answer io.ReadCloser) (io.ReadCloser, error) {
	response := packp.NewUploadPackResponse(req)
	if err := response.Decode(answer); err != nil {
		return nil, errors.Join(fmt.Errorf("read what the remote sends: %.300s", err.Error()), answer.Close())
	}
	var r io.Reader = response
	if req.Capabilities.Supports(capability.Sideband64k) {
		r = sideband.NewDemuxer(sideband.Sideband64k, response)
	}
	return struct {
		io.Reader
		io.Closer
	}{r, response}, nil
}

// budget reads at most left bytes, and fails at the next one.
type budget struct {
	r           io.Reader
	left, total int64
}

func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the remote sends more than %d bytes: keep policies in a repository of their own, or raise max_size_mib", b.total)
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}
