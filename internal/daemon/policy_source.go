package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/hallpass-ssh/hallpass/policy"
)

// policySource is where policies come from.
type policySource interface {
	name() string
	// read looks what is there now. A bundle that comes with an error holds what could be read of it: the revision, the commit.
	read(ctx context.Context) (*policy.Bundle, error)
	// kept is what was read before and is still at hand; nil if nothing is.
	kept() (*policy.Bundle, error)
	// descends says whether a revision may follow another without anybody's word.
	descends(ctx context.Context, revision, ancestor string) (bool, error)
	// rhythm is how often to look, and how long ago the last look may be; zero for never, and for ever.
	rhythm() (poll, maxAge time.Duration)
}

// folderSource is a folder, in a git work tree or not. Whoever works there may check out what they like.
type folderSource struct {
	dir        string
	allowDirty bool
}

func (s folderSource) name() string { return s.dir }

func (s folderSource) read(context.Context) (*policy.Bundle, error) {
	return policy.ReadDir(s.dir, s.allowDirty)
}

func (s folderSource) kept() (*policy.Bundle, error) { return nil, nil }

func (s folderSource) descends(context.Context, string, string) (bool, error) { return true, nil }

func (s folderSource) rhythm() (poll, maxAge time.Duration) { return 0, 0 }

// repositorySource is a branch of a repository.
type repositorySource struct {
	repo *policy.Repository
	cfg  RepositoryConfig
}

func (s *repositorySource) name() string { return s.repo.Name() }

func (s *repositorySource) read(ctx context.Context) (*policy.Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	if err := s.repo.Fetch(ctx); err != nil {
		return nil, err
	}
	return s.repo.Read(s.repo.Head())
}

func (s *repositorySource) kept() (*policy.Bundle, error) {
	head := s.repo.Head()
	if head == "" {
		return nil, nil
	}
	return s.repo.Read(head)
}

func (s *repositorySource) descends(ctx context.Context, revision, ancestor string) (bool, error) {
	return s.repo.Descends(ctx, revision, ancestor)
}

func (s *repositorySource) rhythm() (poll, maxAge time.Duration) { return s.cfg.Poll, s.cfg.MaxAge }

// openSource opens what the configuration names. mirror is where a repository is copied to.
func openSource(cfg *Config, mirror string) (policySource, error) {
	p := cfg.Policy
	if p.Repository == nil {
		return folderSource{cfg.path(p.Source), p.AllowDirty}, nil
	}
	repo, err := policy.OpenRepository(p.Repository.open(cfg, mirror))
	if err != nil {
		return nil, fmt.Errorf("policy.repository: %w", err)
	}
	return &repositorySource{repo, *p.Repository}, nil
}
