package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/stanza"
	"github.com/pgx-backup/pgx/stanza/backup"
	"github.com/pgx-backup/pgx/stanza/report"
)

// commands are those with a function. The others have been refused by then.
var commands = map[config.Command]func(context.Context, *app) error{
	config.CmdAgent:         serve,
	config.CmdArchiveGet:    archiveGet,
	config.CmdArchivePush:   archivePush,
	config.CmdBackup:        runBackup,
	config.CmdCheck:         check,
	config.CmdConfigConvert: configConvert,
	config.CmdConfigShow:    configShow,
	config.CmdExpire:        runExpire,
	config.CmdInfo:          info,
	config.CmdKeyGenerate:   keyGenerate,
	config.CmdRestore:       runRestore,
	config.CmdServer:        serve,
	config.CmdSSHSetup:      sshSetup,
	config.CmdStanzaCreate:  stanzaCreate,
	config.CmdStart:         start,
	config.CmdStop:          stop,
}

// archivePoll is how often a command that waits for WAL looks whether it has arrived.
const archivePoll = 100 * time.Millisecond

// stanza gives the name of the stanza.
func (a *app) stanza() string { return a.cfg.String(config.OptStanza) }

// locks gives the lock and stop files of this host.
func (a *app) locks() lock.Dir {
	return lock.Dir{Path: a.cfg.String(config.OptLockPath), ExecID: a.execID}
}

// storage opens what repository n is kept in, here or on another host, to be read
// (remote.RoleRestore) or changed (remote.RoleAdmin). locks are held on the other host too.
func (a *app) storage(ctx context.Context, n int, role string, missing posix.Missing, locks ...lock.Type) (storage.Storage, error) {
	if !a.cfg.RepoIsLocal(n) {
		// One more than read at once, for what is read between.
		pool, err := a.sessions(repoSide, n, role, a.workers()+1, serverArgs{Repo: n, Locks: locks})
		if err != nil {
			return nil, err
		}
		far, err := remote.NewStorage(ctx, pool, a.cfg.String(config.OptRepoHost, n))
		if err == nil {
			err = a.agree(n, far.Encrypted())
		}
		if err != nil {
			return nil, err
		}
		return far, nil
	}
	st, err := posix.New(a.cfg.String(config.OptRepoPath, n), missing)
	if errors.Is(err, fs.ErrNotExist) {
		err = errs.WithHint(err, "is repo%d-path right? stanza-create makes the directory", n)
	}
	if err != nil {
		return nil, err // not st, which would be a Storage that is not nil
	}
	return st, nil
}

// workers is how many files are handled at once.
func (a *app) workers() int { return max(1, a.cfg.Int(config.OptProcessMax)) }

// places gives the repositories of the command, in order, to be read.
func (a *app) places() (all []repo.Place) {
	for _, n := range a.cfg.Repos() {
		all = append(all, repo.Place{Key: n, Open: func(ctx context.Context) (*repo.Repo, error) {
			st, err := a.storage(ctx, n, remote.RoleRestore, posix.Refuse)
			if err != nil {
				return nil, err
			}
			return a.repo(st, n), nil
		}})
	}
	return all
}

func (a *app) repo(st storage.Storage, n int) *repo.Repo { return a.repoOf(a.stanza(), st, n) }

// repoOf is repo for another stanza.
func (a *app) repoOf(stanza string, st storage.Storage, n int) *repo.Repo {
	c := repo.Config{Key: n, Stanza: stanza, Program: writer, Poll: archivePoll}
	c.NoSymlinks = a.cfg.IsSet(config.OptRepoSymlink, n) && !a.cfg.Bool(config.OptRepoSymlink, n)
	if far, ok := st.(*remote.Storage); ok {
		c.Encrypted = far.Encrypted()
	} else {
		c.Pass = a.pass(n)
	}
	return repo.New(st, c)
}

// encrypts says whether the configuration of this host has repository n encrypted.
func (a *app) encrypts(n int) bool { return a.cfg.String(config.OptRepoCipherType, n) == cipher.Name }

// pass gives the passphrase of repository n, none if it is not encrypted.
func (a *app) pass(n int) cipher.Pass {
	if !a.encrypts(n) {
		return cipher.Pass{}
	}
	return cipher.Pass{Secret: a.cfg.Secret(config.OptRepoCipherPass, n)}
}

// agree refuses repository n on another host if it is not encrypted there, and is to be.
func (a *app) agree(n int, encrypted bool) error {
	if encrypted || !a.encrypts(n) {
		return nil
	}
	err := errs.New(errs.Crypto, "option 'repo%d-cipher-type' is '%s', but repo%d is not encrypted on host '%s'",
		n, cipher.Name, n, a.cfg.String(config.OptRepoHost, n))
	return errs.WithHint(err, "encryption is set where the repository is: repo%d-cipher-type and repo%d-cipher-pass, before stanza-create", n, n)
}

// nodes gives the clusters of the stanza, each here or on another host. locks are held
// on the other hosts too, for the repositories of the command.
func (a *app) nodes(locks ...lock.Type) ([]stanza.Node, error) {
	c := a.cfg
	var all []stanza.Node
	for _, n := range c.Pgs() {
		node := stanza.Node{Key: n, Path: c.String(config.OptPgPath, n)}
		if c.PgIsLocal(n) {
			node.Host = a.localHost(n)
		} else {
			args := agentArgs{Path: node.Path, Locks: locks}
			if len(locks) > 0 {
				args.Repos = c.Repos()
			}
			// One is for the conversation with PostgreSQL.
			pool, err := a.sessions(pgSide, n, agent.RoleBackup, a.workers()+1, args)
			if err != nil {
				return nil, err
			}
			node.Host, node.Name = agent.NewClient(pool), c.String(config.OptPgHost, n)
		}
		all = append(all, node)
	}
	return all, nil
}

// localHost is cluster n on this host.
func (a *app) localHost(n int) *agent.Local {
	c := a.cfg
	path := c.String(config.OptPgPath, n)
	p := pgsql.Params{
		SocketDir: c.String(config.OptPgSocketPath, n),
		Port:      c.Int(config.OptPgPort, n),
		User:      c.String(config.OptPgUser, n),
		Database:  c.String(config.OptPgDatabase, n),
		Timeout:   c.Duration(config.OptDBTimeout),
		Password:  logging.NewSecret(os.Getenv("PGPASSWORD")),
		PassFile:  os.Getenv("PGPASSFILE"),
		// What older releases call themselves, for pg_stat_activity.
		Application: fmt.Sprintf("pgBackRest [%s]", c.Command),
	}
	if c.Command == config.CmdAgent && !c.IsGiven(config.OptPgPort, n) && !c.IsGiven(config.OptPgSocketPath, n) {
		// With pgBackRest only the repository host may know them; the server does too.
		if port, dir, err := pgdata.Postmaster(path); err == nil {
			p.Port, p.SocketDir = port, dir
		}
	}
	return agent.NewLocal(path, p)
}

func (a *app) archiving() stanza.Archiving {
	return stanza.Archiving{Check: a.cfg.Bool(config.OptArchiveCheck), ModeCheck: a.cfg.Bool(config.OptArchiveModeCheck)}
}

func stanzaCreate(ctx context.Context, a *app) error {
	if err := a.locks().Stopped(a.stanza()); err != nil {
		return err
	}
	all := []lock.Type{lock.Archive, lock.Backup, lock.Restore}
	l, err := a.locks().Acquire(ctx, a.stanza(), all, a.cfg.Repos())
	if err != nil {
		return err
	}
	defer l.Release()
	if a.cfg.Bool(config.OptForce) {
		a.log.Warn("option --force is no longer supported")
	}
	var repos []*repo.Repo
	for _, n := range a.cfg.Repos() {
		st, err := a.storage(ctx, n, remote.RoleAdmin, posix.Create, all...)
		if err != nil {
			return err
		}
		repos = append(repos, a.repo(st, n))
	}
	nodes, err := a.nodes(all...)
	if err != nil {
		return err
	}
	return stanza.Create(ctx, a.stanza(), nodes, a.cfg.Bool(config.OptOnline), repos, a.log)
}

func check(ctx context.Context, a *app) error {
	if a.cfg.IsSet(config.OptStanza) {
		return a.checkStanza(ctx)
	}
	names := a.cfg.Stanzas()
	if len(names) == 0 {
		a.log.Warn("no stanzas found to check\nHINT: are there non-empty stanza sections in the configuration?")
	}
	for _, name := range names {
		a.log.Info(fmt.Sprintf("check stanza '%s'", name))
		one, err := a.forStanza(name)
		if err != nil {
			return err
		}
		err = one.checkStanza(ctx)
		_ = a.peers.close() // the next stanza has hosts of its own
		if err != nil {
			return err
		}
	}
	return nil
}

// forStanza resolves the options anew, as if the stanza had been given.
func (a *app) forStanza(name string) (*app, error) {
	cfg, err := a.cfg.ForStanza(name)
	if err != nil {
		return nil, err
	}
	one := *a
	one.cfg = cfg
	return &one, nil
}

func (a *app) checkStanza(ctx context.Context) error {
	nodes, err := a.nodes()
	if err != nil {
		return err
	}
	away := !slices.ContainsFunc(a.cfg.Repos(), a.cfg.RepoIsLocal)
	dropped, err := a.dropped()
	if err != nil {
		a.log.Warn(fmt.Sprintf("[%s] %s", errs.CodeOf(err), err))
	}
	c := stanza.Check{
		Nodes: nodes, Standby: a.cfg.String(config.OptBackupStandby) != string(backup.NoStandby), Repos: a.places(), Away: away, Archiving: a.archiving(), Timeout: a.cfg.Duration(config.OptArchiveTimeout),
		Dropped: dropped, Thinned: a.thinned, Now: a.now, Log: a.log,
	}
	if !a.cfg.DropIn() {
		c.Waiting = a.waiting
	}
	return c.Run(ctx)
}

func info(ctx context.Context, a *app) error {
	c := a.cfg
	q := report.Query{
		Stanza: a.stanza(), Progress: c.String(config.OptDetailLevel) == "progress", Locks: a.locks(),
		Type: format.BackupType(c.String(config.OptType)),
	}
	if !c.DropIn() {
		q.Dropped, q.Thinned, q.Now = a.droppedOf, a.thinnedOf, a.now()
	}
	if c.IsSet(config.OptSet) {
		if q.Progress {
			return errs.New(errs.OptionInvalid, "option 'set' cannot be used with option 'detail-level' = 'progress'")
		}
		q.Set = format.Label(c.String(config.OptSet))
		if _, err := format.ParseLabel(string(q.Set)); err != nil {
			// No backup has such a name, and it must not become part of a path.
			return errs.New(errs.OptionInvalidValue, "'%s' is not a valid backup label format", q.Set)
		}
	}
	var sources []report.Source
	for _, n := range c.Repos() {
		s := report.Source{Key: n, Cipher: c.String(config.OptRepoCipherType, n)}
		st, err := a.storage(ctx, n, remote.RoleRestore, posix.Refuse)
		switch {
		case errors.Is(err, fs.ErrNotExist): // holds no stanza
		case err != nil:
			s.Err = err
		default:
			s.Storage = st
			s.Open = func(name string) *repo.Repo { return a.repoOf(name, st, n) }
			if a.repo(st, n).Encrypted() {
				s.Cipher = cipher.Name
			}
		}
		sources = append(sources, s)
	}
	all, err := report.Collect(ctx, q, sources)
	if err != nil {
		return err
	}
	if c.String(config.OptOutput) == "json" {
		return report.JSON(os.Stdout, all)
	}
	return report.Text(os.Stdout, all, q.Set != "", time.Local)
}

func start(_ context.Context, a *app) error {
	removed, err := a.locks().Start(a.stanza())
	if err == nil && !removed {
		a.log.Warn("stop file does not exist for " + a.stopTarget())
	}
	return err
}

// stopTarget names what a stop file is for.
func (a *app) stopTarget() string {
	if a.stanza() == "" {
		return "all stanzas"
	}
	return "stanza " + a.stanza()
}

func stop(ctx context.Context, a *app) error {
	made, err := a.locks().Stop(ctx, a.stanza())
	if err != nil {
		return err
	}
	if !made {
		a.log.Warn("stop file already exists for " + a.stopTarget())
		return nil
	}
	if !a.cfg.Bool(config.OptForce) {
		return nil
	}
	holders, unread, err := a.locks().Holders(a.stanza())
	if err != nil {
		return err
	}
	for _, path := range unread {
		a.log.Warn("unable to read lock file " + path)
	}
	for _, h := range holders {
		if isResident(h.PID) {
			a.log.Warn(fmt.Sprintf("process %d is a resident pgx, which is not ended: what it does for %s goes on until it is restarted",
				h.PID, a.stopTarget()))
			continue
		}
		if err := syscall.Kill(h.PID, syscall.SIGTERM); err != nil {
			a.log.Warn(fmt.Sprintf("unable to send term signal to process %d", h.PID))
			continue
		}
		a.log.Info(fmt.Sprintf("sent term signal to process %d", h.PID))
	}
	return nil
}

// isResident says whether a process is an agent or server that does more than what it holds a
// lock for.
func isResident(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false // gone, which the signal will show
	}
	words := strings.Split(string(line), "\x00")
	serves := slices.Contains(words, config.CmdAgent.String()) || slices.Contains(words, config.CmdServer.String())
	return serves && !slices.Contains(words, "--"+config.OptStdio.String())
}

func keyGenerate(context.Context, *app) error { return print(cipher.Generate().Reveal() + "\n") }

func configShow(_ context.Context, a *app) error { return print(a.cfg.Show()) }

func configConvert(_ context.Context, a *app) error {
	if len(a.cfg.Params) != 1 {
		return errs.WithHint(errs.New(errs.ParamRequired, "one configuration file to convert required"),
			"for example: pgx config convert /etc/pgbackrest/pgbackrest.conf > /etc/pgx/pgx.toml")
	}
	dir, err := os.Getwd()
	if err != nil && !filepath.IsAbs(a.cfg.Params[0]) {
		return errs.WrapAs(errs.PathMissing, err, "unable to get cwd")
	}
	text, err := config.Convert(dir, a.cfg.Params[0])
	if err != nil {
		return err
	}
	return print(text)
}
