package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage/posix"
)

// A grantee is who opens a session, as far as authentication has said.
type grantee struct {
	name    string                 // for messages
	holds   func(role string) bool // on some stanza
	permits func(role, stanza string) bool
	// where says in which place more could be granted.
	where string
}

// serveSession answers one client on t.
func (a *app) serveSession(ctx context.Context, t protocol.Transport, who grantee) error {
	return protocol.Serve(ctx, t, protocol.Config{
		Peer: who.name, Program: "pgx " + version, Silence: a.cfg.Duration(config.OptIOTimeout),
	}, func(ctx context.Context, h protocol.Hello) (protocol.Service, error) {
		s, err := a.accept(ctx, h, who)
		if err == nil {
			a.log.Debug(fmt.Sprintf("%s: role '%s' on stanza '%s' for command '%s' [%s]", who.name, h.Role, h.Stanza, h.Command, h.ExecID))
		}
		return s, err
	})
}

// accept gives the service of the role that a client asks for, if it may have it.
func (a *app) accept(ctx context.Context, h protocol.Hello, who grantee) (protocol.Service, error) {
	// They get into the logs of both hosts. An error must not repeat them.
	for what, text := range map[string]string{"role": h.Role, "stanza": h.Stanza, "command": h.Command, "exec-id": h.ExecID} {
		if len(text) > 255 || strings.ContainsFunc(text, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
			return protocol.Service{}, errs.New(errs.ParamInvalid, "the client gives as %s what cannot be one", what)
		}
	}
	refused := func(on string) (protocol.Service, error) {
		return protocol.Service{}, errs.WithHint(
			errs.New(errs.Access, "'%s' is not granted role '%s' on %s", who.name, h.Role, on), "%s", who.where)
	}
	switch {
	case h.Stanza != "" && !who.permits(h.Role, h.Stanza):
		return refused("stanza '" + h.Stanza + "'")
	case !who.holds(h.Role): // of several stanzas it shows those that are granted
		return refused("any stanza")
	}
	one := a
	if h.Stanza != "" {
		var err error
		if one, err = a.forStanza(h.Stanza); err != nil {
			return protocol.Service{}, err
		}
	}
	mine := *one
	mine.execID = h.ExecID // what is locked belongs to the command
	if a.cfg.Command == config.CmdAgent {
		return mine.agentService(ctx, h)
	}
	return mine.serverService(ctx, h, who)
}

// decodeArgs reads the arguments of a Hello.
func decodeArgs(h protocol.Hello, v any) error {
	if err := json.Unmarshal(h.Args, v); err != nil {
		return errs.New(errs.Protocol, "the arguments of role '%s' cannot be read: %w", h.Role, err)
	}
	return nil
}

func wrongRole(h protocol.Hello, command config.Command, roles ...string) error {
	return errs.New(errs.Access, "'pgx %s' has no role '%s', only %s", command, h.Role, strings.Join(roles, ", "))
}

// agentService is what a repository host may do here.
func (a *app) agentService(ctx context.Context, h protocol.Hello) (s protocol.Service, err error) {
	var args agentArgs
	if err := decodeArgs(h, &args); err != nil {
		return s, err
	}
	if h.Stanza == "" {
		return s, errs.New(errs.OptionRequired, "role '%s' needs a stanza", h.Role)
	}
	n, err := a.localPg(args.Path)
	if err != nil {
		return s, err
	}
	if h.Role == agent.RoleBackup {
		if err := a.locks().Stopped(a.stanza()); err != nil {
			return s, err
		}
	}
	switch h.Role {
	case agent.RoleBackup:
		s = agent.BackupService(a.localHost(n))
	case agent.RoleRestoreTarget:
		s = agent.TargetService(a.target(a.cfg.String(config.OptPgPath, n)))
	default:
		return s, wrongRole(h, config.CmdAgent, agent.RoleBackup, agent.RoleRestoreTarget)
	}
	return a.holding(ctx, s, args.Locks, args.Repos)
}

// holding gives the service s with these locks held on this host until it is closed. If they
// cannot be had s is closed at once.
func (a *app) holding(ctx context.Context, s protocol.Service, types []lock.Type, repos []int) (protocol.Service, error) {
	held, err := a.lockFor(ctx, types, repos)
	if err != nil {
		return protocol.Service{}, errors.Join(err, s.Close())
	}
	end := s.Close
	s.Close = func() error { return errors.Join(end(), held.Release()) } // what is locked ends first
	return s, nil
}

// lockFor takes the locks that a client asks for.
func (a *app) lockFor(ctx context.Context, types []lock.Type, repos []int) (*lock.Lock, error) {
	for _, t := range types {
		if !slices.Contains([]lock.Type{lock.Archive, lock.Backup, lock.Restore}, t) {
			return nil, errs.New(errs.ParamInvalid, "%q is no type of lock", t)
		}
	}
	for _, n := range repos {
		if n < 1 || n > 256 { // as in options
			return nil, errs.New(errs.ParamInvalid, "%d is no number of a repository", n)
		}
	}
	if len(types) == 0 {
		return new(lock.Lock), nil
	}
	return a.locks().Acquire(ctx, a.stanza(), types, repos)
}

// localPg gives the number of the cluster of the stanza that is on this host and in that
// directory.
func (a *app) localPg(path string) (int, error) {
	var here []string
	for _, n := range a.cfg.Pgs() {
		if !a.cfg.PgIsLocal(n) {
			continue
		}
		if p := a.cfg.String(config.OptPgPath, n); p == path {
			return n, nil
		} else {
			here = append(here, fmt.Sprintf("pg%d-path=%s", n, p))
		}
	}
	err := errs.New(errs.DbMismatch, "stanza '%s' has no data directory '%s' in the configuration of this host", a.stanza(), path)
	if len(here) == 0 {
		return 0, errs.WithHint(err, "is pg1-path set there, without pg1-host?")
	}
	return 0, errs.WithHint(err, "this host has %s; both configurations must name the same directory", strings.Join(here, ", "))
}

// serverService is what a PostgreSQL host may do with the repositories of this one.
func (a *app) serverService(ctx context.Context, h protocol.Hello, who grantee) (s protocol.Service, err error) {
	var args serverArgs
	if err := decodeArgs(h, &args); err != nil {
		return s, err
	}
	n := args.Repo
	if !slices.Contains(a.cfg.Repos(), n) {
		return s, errs.WithHint(errs.New(errs.OptionRequired, "this host has no repository with number %d", n),
			"a repository has the same number on both hosts: repo%d-host there, repo%d-path here", n, n)
	}
	if !a.cfg.RepoIsLocal(n) {
		return s, errs.WithHint(errs.New(errs.HostInvalid, "repo%d of this host is itself on another host", n),
			"let repo%d-host of the client name that host", n)
	}
	switch h.Role {
	case remote.RoleArchive:
		if h.Stanza == "" {
			return s, errs.New(errs.OptionRequired, "role '%s' needs a stanza", h.Role)
		}
	case remote.RoleRestore, remote.RoleAdmin:
	default:
		return s, wrongRole(h, config.CmdServer, remote.RoleArchive, remote.RoleRestore, remote.RoleAdmin)
	}
	if len(args.Locks) > 0 && h.Role != remote.RoleAdmin {
		return s, errs.New(errs.Access, "role '%s' may not lock anything", h.Role)
	}
	// A server that recovers needs what is in the archive, whatever is stopped.
	if len(args.Locks) > 0 || h.Role == remote.RoleArchive && h.Command != config.CmdArchiveGet.String() {
		if err := a.locks().Stopped(a.stanza()); err != nil {
			return s, err
		}
	}
	st, err := posix.New(a.cfg.String(config.OptRepoPath, n), posix.Refuse)
	if errors.Is(err, fs.ErrNotExist) {
		err = errs.WithHint(err, "is repo%d-path right there? stanza-create, on the repository host, makes the directory", n)
	}
	if err != nil {
		return s, err
	}
	if h.Role == remote.RoleArchive {
		if a.cfg.Bool(config.OptStdio) {
			// Sessions, each a process, are what works in parallel. A second thread in one would
			// mostly be woken for a bit of work that the first could have done meanwhile.
			runtime.GOMAXPROCS(1)
		}
		s = remote.ArchiveService(a.repo(st, n), remote.ArchiveOptions{
			SkipHeaderCheck: !a.cfg.Bool(config.OptArchiveHeaderCheck),
			Stopped:         func() error { return a.locks().Stopped(a.stanza()) },
		})
	} else {
		seal := repo.Seal{Name: fmt.Sprintf("repo%d", n), Pass: a.pass(n)}
		s = remote.StorageService(st, seal, func(stanza string) bool {
			return who.permits(h.Role, stanza) && (h.Stanza == "" || stanza == h.Stanza)
		}, h.Role == remote.RoleAdmin)
	}
	s.Close = st.Close
	return a.holding(ctx, s, args.Locks, []int{n})
}

// serveStdio serves the one client that sshd has started this process for. What it may do
// is in the command line, which authorized_keys forces on the client's key.
func (a *app) serveStdio(ctx context.Context) error {
	roles := a.cfg.List(config.OptRole)
	// A client that is gone is an error of the next write, not the end of this process: what
	// the session has open is to be cleaned up.
	signal.Ignore(syscall.SIGPIPE)
	t, err := protocol.Stdio()
	if err != nil {
		return err
	}
	only := a.stanza()
	who := grantee{
		name:  "the client",
		holds: func(role string) bool { return slices.Contains(roles, role) },
		permits: func(role, stanza string) bool {
			return slices.Contains(roles, role) && (only == "" || stanza == only)
		},
		where: "the command in the authorized_keys of this account grants roles (--role) and a stanza (--stanza); see pgx ssh-setup",
	}
	if from, _, _ := strings.Cut(os.Getenv("SSH_CONNECTION"), " "); from != "" {
		who.name = from
	}
	return a.serveSession(ctx, t, who)
}

// serve is the command agent, and the command server.
func serve(ctx context.Context, a *app) error {
	if a.cfg.Bool(config.OptStdio) {
		return a.serveStdio(ctx)
	}
	return a.serveResident(ctx)
}
