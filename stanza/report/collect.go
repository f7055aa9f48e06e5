package report

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Source is a repository to report on.
type Source struct {
	Key    int
	Cipher string // "none"
	// Open gives a stanza of the repository, which need not exist.
	Open func(stanza string) *repo.Repo
	// Storage is where it is kept, or Err why that cannot be had; neither: it does not exist.
	Storage storage.Storage
	Err     error
}

// Query says what to report.
type Query struct {
	Stanza   string            // empty: all
	Set      format.Label      // one backup, with what is in it
	Type     format.BackupType // only backups of a type; empty: all
	Progress bool              // only status and locks
	Locks    lock.Dir          // of this host

	// Dropped, if not nil, asks for the WAL that backups lack, which pgBackRest does not
	// tell, and gives what is known of a stanza's drops on this host. Now is the time then.
	Dropped func(stanza string) ([]repo.Drop, error)
	Now     time.Time
	// Thinned, if not nil, says where retention lets WAL of a cluster go, of a stanza with these
	// backups in a repository.
	Thinned func(stanza string, repoKey int, listed []info.BackupEntry, cluster int) repo.Thinned
}

// Collect asks every repository. What cannot be read is in the report, not an error:
// one broken stanza must not hide the others.
func Collect(ctx context.Context, q Query, sources []Source) ([]Stanza, error) {
	c := &collector{q: q, sources: sources, stanzas: map[string][]state{}, broken: map[int]string{}}
	for i, s := range sources {
		if err := c.discover(ctx, i, s); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			c.broken[i] = other(err)
		}
	}
	if len(c.stanzas) == 0 && len(c.broken) > 0 {
		name := q.Stanza
		if name == "" {
			name = "[invalid]"
		}
		c.states(name)
	}
	for name, states := range c.stanzas {
		for i, message := range c.broken {
			states[i] = state{status: StatusOther, message: message}
		}
		if q.Set != "" && !c.found && name == q.Stanza {
			for i := range states {
				if states[i].status == StatusOK {
					states[i] = state{status: StatusBackupMissing}
				}
			}
		}
	}
	var all []Stanza
	for _, name := range slices.Sorted(maps.Keys(c.stanzas)) {
		s, err := c.stanza(ctx, name)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

type collector struct {
	q       Query
	sources []Source
	stanzas map[string][]state // one per source
	broken  map[int]string     // sources that cannot be read at all
	found   bool               // the backup asked for is in some source
}

// state is a stanza in one source.
type state struct {
	repo     *repo.Repo
	status   int
	message  string // of StatusOther
	backups  *info.Backup
	archive  *info.Archive
	manifest *manifest.Manifest
	lock     lockState
	restore  lockState
	reaches  map[format.Label]repo.Reach // of the backups that lack WAL
}

type lockState struct {
	held       bool
	size, done int64
}

func other(err error) string { return fmt.Sprintf("[%s] %s", errs.CodeOf(err), err) }

func (c *collector) states(name string) []state {
	if c.stanzas[name] == nil {
		c.stanzas[name] = make([]state, len(c.sources))
	}
	return c.stanzas[name]
}

// discover finds the stanzas of one source and loads their files.
func (c *collector) discover(ctx context.Context, i int, s Source) error {
	if s.Err != nil {
		return s.Err
	}
	var names []string
	if s.Storage == nil {
		return c.missing(i)
	}
	for o, err := range s.Storage.List(ctx, "backup", storage.Listing{Only: []storage.Type{storage.Dir}, NamesOnly: true}) {
		if err != nil {
			return err
		}
		names = append(names, path.Base(o.Name))
	}
	exists := true
	if c.q.Stanza != "" {
		exists = slices.Contains(names, c.q.Stanza)
		names = []string{c.q.Stanza}
	}
	for _, name := range names {
		st := &c.states(name)[i]
		if !exists {
			st.status = StatusMissingStanzaPath
			continue
		}
		st.repo = s.Open(name)
		if err := c.load(ctx, name, st); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errs.CodeOf(err) == errs.Crypto && c.q.Stanza == "" {
				err = errs.WithHint(err, "use option --stanza if encryption settings are different for the stanza than the global settings.")
			}
			*st = state{repo: st.repo, status: StatusOther, message: other(err)}
		}
	}
	return nil
}

// missing is discover for a source that does not exist.
func (c *collector) missing(i int) error {
	if c.q.Stanza != "" {
		c.states(c.q.Stanza)[i].status = StatusMissingStanzaPath
	}
	return nil
}

func (c *collector) load(ctx context.Context, name string, st *state) error {
	if !c.q.Progress {
		b, err := st.repo.BackupInfo(ctx)
		switch {
		case errors.Is(err, fs.ErrNotExist) && errs.CodeOf(err) == errs.FileMissing:
			st.status = StatusMissingStanzaData
			return nil
		case err != nil:
			return err
		}
		st.backups = b
		if st.archive, err = st.repo.ArchiveInfo(ctx); err != nil {
			return err
		}
		if c.q.Set != "" {
			whole, err := st.repo.Complete(ctx, c.q.Set)
			if err != nil {
				return err
			}
			if whole {
				c.found = true
				if st.manifest, err = st.repo.Manifest(ctx, c.q.Set); err != nil {
					return err
				}
			}
		}
	}
	st.lock = c.look(name, lock.Backup, st.repo.Key())
	st.restore = c.look(name, lock.Restore, st.repo.Key())
	return nil
}

// stanza puts the report of one stanza together.
func (c *collector) stanza(ctx context.Context, name string) (Stanza, error) {
	states := c.stanzas[name]
	s := Stanza{Name: name}
	for _, st := range states {
		if st.backups != nil {
			cur := st.backups.Current()
			s.current = identity{cur.SystemID, cur.Version}
			break
		}
	}
	overall := -1
	if !c.q.Progress {
		s.Archive, s.Backup, s.DB, s.Repo = []Archive{}, []Backup{}, []DB{}, []Repo{}
	}
	for i := range states {
		st := &states[i]
		if !c.q.Progress {
			if st.status == StatusOK && st.backups == nil {
				st.status = StatusMissingStanzaPath
			}
			if st.backups != nil {
				if err := c.history(ctx, &s, st); err != nil {
					if ctx.Err() != nil {
						return s, ctx.Err()
					}
					*st = state{repo: st.repo, status: StatusOther, message: other(err)}
				} else if cur := st.backups.Current(); s.current != (identity{cur.SystemID, cur.Version}) {
					overall = StatusMismatch
				}
			}
			if st.status == StatusOK && len(st.backups.Entries()) == 0 {
				st.status = StatusNoBackup
			}
		}
		switch {
		case overall == StatusMismatch:
		case i == 0:
			overall = st.status
		case overall != st.status:
			overall = StatusMixed
		}
		if c.q.Progress {
			continue
		}
		switch cipher := c.sources[i].Cipher; {
		case i == 0:
			s.Cipher = cipher
		case s.Cipher != cipher:
			s.Cipher = "mixed"
		}
		message := statusText[st.status]
		if st.status == StatusOther {
			message = st.message
		}
		s.Repo = append(s.Repo, Repo{Cipher: c.sources[i].Cipher, Key: c.sources[i].Key, Status: RepoStatus{st.status, message}})
	}
	if !c.q.Progress {
		if err := c.holes(ctx, &s, states); err != nil {
			return s, err
		}
		s.Backup = append(s.Backup, c.backups(states)...)
	}
	s.Status = Status{Code: overall, Message: statusText[overall], Lock: c.locks(states)}
	return s, nil
}

// history adds the clusters of one source and their WAL, oldest first.
func (c *collector) history(ctx context.Context, s *Stanza, st *state) error {
	key := st.repo.Key()
	current := st.backups.Current()
	for _, h := range st.backups.History() {
		s.DB = append(s.DB, DB{ID: h.ID, RepoKey: key, SystemID: h.SystemID, Version: h.Version})
		id, err := archiveID(st.archive, h)
		if err != nil {
			return err
		}
		first, last, err := st.repo.WALRange(ctx, id)
		if err != nil {
			return err
		}
		if first != "" || h.ID == current.ID {
			s.Archive = append(s.Archive, Archive{Database: Key{h.ID, key}, ID: id.String(), Max: nullable(last), Min: nullable(first)})
		}
	}
	return nil
}

// archiveID finds the archive of a cluster of backup.info. The ids of the two files may
// differ.
func archiveID(a *info.Archive, c format.Cluster) (format.ArchiveID, error) {
	var found *format.Cluster
	for _, h := range a.History() {
		if h.SystemID == c.SystemID && h.Version == c.Version {
			if h.ID == c.ID {
				found = &h
				break
			}
			found = &h
		}
	}
	if found == nil {
		return format.ArchiveID{}, errs.New(errs.ArchiveMismatch,
			"unable to retrieve the archive id for database version '%s' and system-id '%d'", c.Version, c.SystemID)
	}
	return format.ArchiveID{Version: found.Version, ID: found.ID}, nil
}

// nullable gives nil, which is null, for the empty text.
func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// backups lists those of all sources by the time they stopped.
func (c *collector) backups(states []state) []Backup {
	var all []Backup
	next := make([][]info.BackupEntry, len(states))
	for i, st := range states {
		if st.backups != nil {
			next[i] = st.backups.Entries()
		}
	}
	for {
		from := -1
		for i, list := range next {
			if len(list) > 0 && (from < 0 || list[0].Stop < next[from][0].Stop) {
				from = i
			}
		}
		if from < 0 {
			return all
		}
		e := next[from][0]
		next[from] = next[from][1:]
		if c.q.Set != "" && e.Label != c.q.Set || c.q.Type != "" && e.Type != c.q.Type {
			continue
		}
		b := backup(e, c.sources[from].Key, states[from].manifest)
		if r, lacks := states[from].reaches[e.Label]; lacks {
			b.reach(r)
		}
		all = append(all, b)
	}
}

func backup(e info.BackupEntry, key int, m *manifest.Manifest) Backup {
	b := Backup{
		Annotation: e.Annotations,
		Archive:    Range{nullable(e.ArchiveStart), nullable(e.ArchiveStop)},
		Backrest:   Backrest{e.Format, e.Made},
		Database:   Key{e.ClusterID, key},
		Error:      e.PageErrors,
		Info: Sizes{Delta: e.SizeDelta, Size: e.Size, Repository: RepoSizes{
			Delta: e.RepoSizeDelta, DeltaMap: e.MapSizeDelta, SizeMap: e.MapSize}},
		Label:     string(e.Label),
		Prior:     nullable(string(e.Prior)),
		Timestamp: Times{e.Start, e.Stop},
		Type:      string(e.Type),
	}
	if e.MapSize == nil {
		b.Info.Repository.Size = &e.RepoSize
	}
	if e.LSNStart != "" && e.LSNStop != "" {
		b.LSN = &Range{&e.LSNStart, &e.LSNStop}
	}
	for _, l := range e.Reference {
		b.Reference = append(b.Reference, string(l))
	}
	if m != nil {
		b.contents(m)
	}
	return b
}

// contents adds what only the manifest knows.
func (b *Backup) contents(m *manifest.Manifest) {
	databases := []Database{}
	for _, d := range m.Databases.All() {
		if d.Name != "template0" && d.Name != "template1" {
			databases = append(databases, Database{d.Name, d.ID})
		}
	}
	var links []Link
	var tablespaces []Tablespace
	for _, t := range m.Targets.All() {
		switch {
		case t.Name == format.PGData:
		case t.TablespaceName != "":
			tablespaces = append(tablespaces, Tablespace{t.Path, t.TablespaceName, t.TablespaceID})
		case t.File != "":
			links = append(links, Link{t.Path + "/" + t.File, t.File})
		default:
			links = append(links, Link{t.Path, manifest.PGPath(t.Name)})
		}
	}
	b.DatabaseRef, b.Link, b.Tablespace = &databases, &links, &tablespaces
	for f := range m.Files.All() {
		if f.Pages == manifest.PagesInvalid {
			b.ErrorList = append(b.ErrorList, manifest.PGPath(f.Name))
		}
	}
	if len(b.ErrorList) > 0 {
		yes := true
		b.Error = &yes
	}
}

func (c *collector) look(stanza string, t lock.Type, key int) lockState {
	h, held := c.q.Locks.Held(stanza, t, key)
	return lockState{held, int64(h.Size), int64(h.Complete)}
}

// locks sums up what runs. Restores are not told apart by repository: the last one counts.
func (c *collector) locks(states []state) Locks {
	var l Locks
	var size, done int64
	for i, st := range states {
		if st.restore.held {
			l.Restore.Held = true
			if st.restore.size > 0 {
				l.Restore.Size, l.Restore.Done = &st.restore.size, &st.restore.done
			}
		}
		if !st.lock.held {
			continue
		}
		l.Backup.Held = true
		if st.lock.size > 0 {
			l.Backup.Repo = append(l.Backup.Repo, RepoLock{c.sources[i].Key, st.lock.size, st.lock.done})
			size, done = size+st.lock.size, done+st.lock.done
		}
	}
	if len(l.Backup.Repo) > 0 {
		l.Backup.Size, l.Backup.Done = &size, &done
	}
	return l
}
