//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The names of the two programs in reports.
const (
	pgxName  = "pgx"
	peerName = "pgbackrest"
)

// What is measured, as the report names and orders it.
const (
	backup        = "backup"
	restore       = "restore"
	restoreTheirs = "restore, of pgbackrest's repository"
	archivePush   = "archive-push"
	archiveGet    = "archive-get"

	unchangedBackup  = "incr, nothing changed"
	changedBackup    = "incr, 1 % changed"
	deltaRestore     = "restore --delta, 1 % damaged"
	blockDelta       = "restore --delta of blocks, 1 % of pages damaged"
	blockIncr        = "incr in blocks, 1 % of pages changed"
	smallFull        = "backup in bundles, small files"
	smallIncr        = "incr in bundles, small files, nothing changed"
	smallRestore     = "restore out of bundles, small files"
	summaryIncr17    = "incr --backup-summary --delta, PostgreSQL 17"
	summaryIncr18    = "incr --backup-summary --delta, PostgreSQL 18"
	encryptedBackup  = "encrypted backup"
	encryptedRestore = "encrypted restore"

	remoteBackup  = "ssh backup"
	remoteRestore = "ssh restore"
	remoteIncr    = "ssh incr, nothing changed"
	remoteDelta   = "ssh restore --delta, 1 % damaged"
	remotePush    = "ssh archive-push"
	residentPush  = "server archive-push" // of pgx; pgbackrest has no server for SSH, so it is its remotePush
	remoteGet     = "ssh archive-get"

	listBackups  = "info"
	listOne      = "info --set"
	expireOld    = "expire --dry-run"
	loadManifest = "load a manifest"
	saveManifest = "save a manifest"
)

var operations = []string{
	backup, restore, restoreTheirs, archivePush, archiveGet,
	remoteBackup, remoteRestore, remoteIncr, remoteDelta, remotePush, residentPush, remoteGet,
	unchangedBackup, changedBackup, deltaRestore, encryptedBackup, encryptedRestore,
	blockIncr, blockDelta, smallFull, smallIncr, smallRestore, summaryIncr17, summaryIncr18,
	listBackups, listOne, expireOld, loadManifest, saveManifest,
}

const stanza = "bench"

// tool is a program that takes pgbackrest's command line.
type tool struct{ name, path string }

// contest is one tool with one codec, in a new repository.
type contest struct {
	*tool
	settings
	corpus   string // the part of the corpus, "" for a mixture
	codec    string
	dir      string // made by prepare
	server   *server
	hosts    *hosts   // nil: the repository is on the host of the server
	resident bool     // the repository host is asked through its resident server
	wal      []string // paths of full segments
	store    string   // the repository's directory; "": one in dir
	theirs   string   // the repository of pgbackrest
	m        measurer
}

// discard gives back the space that the contest has used. The files stay, empty, until all
// is over: ext4 does not use the inode of a removed file again for a while and can search long
// for another, at the cost of the contest that comes next.
func (c contest) discard() error {
	err := filepath.WalkDir(c.dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			err = os.Truncate(name, 0)
		}
		return err
	})
	if err != nil {
		return err
	}
	done, err := os.MkdirTemp(filepath.Dir(c.dir), "done-")
	if err != nil {
		return err
	}
	return os.Rename(c.dir, filepath.Join(done, filepath.Base(c.dir)))
}

// The configurations of the two hosts. Without hosts they are the same.
const (
	repoHost = "repo.conf"
	pgHost   = "pg.conf"
)

// prepare makes the stanza; options are of the command that does.
func (c contest) prepare(ctx context.Context, options ...string) error {
	if err := c.configure(); err != nil {
		return err
	}
	_, err := c.measure(ctx, repoHost, append([]string{"stanza-create"}, options...)...)
	return err
}

// configure makes the directory and the configurations in it.
func (c contest) configure() error {
	if err := c.m.mkdir(c.dir); err != nil {
		return err
	}
	global := []string{
		"spool-path=" + c.path("spool"), "log-path=" + c.path("log"), "log-level-file=off", "log-level-console=warn",
		"start-fast=y", "archive-check=n", "compress-type=" + c.codec, fmt.Sprintf("process-max=%d", c.processMax),
	}
	global = append(global, c.options...)
	repository := []string{"repo1-path=" + c.repository(), "repo1-retention-full=2"}
	cluster := []string{
		"pg1-user=postgres", fmt.Sprintf("pg1-port=%d", c.server.port), "pg1-socket-path=" + c.server.socketDir,
	}
	content := map[string][2][]string{repoHost: {repository, cluster}}
	if c.hosts != nil {
		repoPort := c.hosts.port
		if c.resident {
			repoPort = c.hosts.residentPort
		}
		content = map[string][2][]string{
			repoHost: {repository, c.reach("pg1", c.hosts.port, pgHost)},
			pgHost:   {c.reach("repo1", repoPort, repoHost), cluster},
		}
	}
	for name, x := range content {
		lines := slices.Concat([]string{"[global]", "lock-path=" + c.path("lock-"+name)}, global, x[0],
			[]string{"", "[" + stanza + "]", "pg1-path=" + c.server.data}, x[1], []string{""})
		if err := c.m.writeFile(c.path(name), []byte(strings.Join(lines, "\n"))); err != nil {
			return err
		}
	}
	return nil
}

func (c contest) repository() string { return cmp.Or(c.store, c.path("repo")) }

// reach is how one host reaches the other.
func (c contest) reach(prefix string, port int, config string) []string {
	return []string{
		prefix + "-host=" + address, prefix + "-host-user=" + c.hosts.user, fmt.Sprintf("%s-host-port=%d", prefix, port),
		prefix + "-host-cmd=" + c.tool.path, prefix + "-host-config=" + c.path(config),
	}
}

func (c contest) path(name string) string { return filepath.Join(c.dir, name) }

// measure runs the tool on a host.
func (c contest) measure(ctx context.Context, host string, args ...string) (sample, error) {
	return c.m.run(ctx, c.tool.path, c.args(host, args...)...)
}

// config gives the configuration that holds on a host.
func (c contest) config(host string) string {
	if c.hosts == nil {
		return repoHost
	}
	return host
}

// args are the arguments that have the tool run a command on a host.
func (c contest) args(host string, command ...string) []string {
	common := []string{"--config=" + c.path(c.config(host)), "--stanza=" + stanza}
	if c.hosts != nil {
		common = append(common, c.hosts.options(c.name)...)
	}
	return append(common, command...)
}

// restore restores the newest backup to a directory that is new.
func (c contest) restore(ctx context.Context) (sample, error) {
	to := c.path("restored")
	if err := c.m.mkdir(to); err != nil {
		return sample{}, err
	}
	// pgx does not keep what it stores in the page cache.
	if err := readAll(c.repository()); err != nil {
		return sample{}, err
	}
	s, err := c.measure(ctx, pgHost, "restore", "--pg1-path="+to)
	if err != nil {
		return s, err
	}
	if s.Stored, err = sizeOf(to); err != nil {
		return s, err
	}
	return s, sameTables(c.server.data, to)
}

// restoreTheirs restores what pgbackrest has backed up, so that both read the same.
func (c contest) restoreTheirs(ctx context.Context) (sample, error) {
	c.dir, c.store = c.path("theirs"), c.theirs
	if err := c.configure(); err != nil {
		return sample{}, err
	}
	return c.restore(ctx)
}

func (c contest) push(ctx context.Context) (sample, error) {
	var all samples
	for _, segment := range c.wal {
		s, err := c.measure(ctx, pgHost, archivePush, segment)
		if err != nil {
			return s, err
		}
		all = append(all, s)
	}
	s := all.each()
	stored, err := sizeOf(c.path("repo/archive"))
	s.Stored = stored / int64(len(c.wal))
	return s, err
}

func (c contest) get(ctx context.Context) (sample, error) {
	var all samples
	for _, segment := range c.wal {
		s, err := c.getOne(ctx, segment)
		if err != nil {
			return s, err
		}
		all = append(all, s)
	}
	return all.each(), nil
}

func (c contest) getOne(ctx context.Context, segment string, options ...string) (sample, error) {
	to := c.path("segment")
	s, err := c.measure(ctx, pgHost, append(options, archiveGet, filepath.Base(segment), to)...)
	if err == nil {
		err = same(segment, to)
	}
	if err != nil {
		return s, err
	}
	return s, os.Remove(to)
}

// readAll reads all files below dir.
func readAll(dir string) error {
	return filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, f)
		return errors.Join(err, f.Close())
	})
}

// sizeOf gives the bytes in the files below dir.
func sizeOf(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				total += info.Size()
			}
		}
		return err
	})
	return total, err
}

// sameTables compares the files of all databases. Nothing writes to them during the
// benchmark, and each backup was made after a checkpoint.
func sameTables(data, restored string) error {
	return filepath.WalkDir(filepath.Join(data, "base"), func(name string, e fs.DirEntry, err error) error {
		// What the relation cache was when the server ran is of no use to another.
		if err != nil || !e.Type().IsRegular() || strings.HasPrefix(e.Name(), "pg_internal.init") {
			return err
		}
		below, err := filepath.Rel(data, name)
		if err != nil {
			return err
		}
		return same(name, filepath.Join(restored, below))
	})
}

// same compares two files, of at most 1 GB as those of PostgreSQL are.
func same(a, b string) error {
	x, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	y, err := os.ReadFile(b)
	if err == nil && !bytes.Equal(x, y) {
		err = fmt.Errorf("'%s' differs from '%s', of which it should be a copy", b, a)
	}
	return err
}
