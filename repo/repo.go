// Package repo is one repository as the operations on a stanza see it: the archive, the
// backups, and the info files that list them. It knows the names and the order in
// which things become durable; how bytes are kept is the business of package storage,
// what is in the files that of the packages below format.
package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/format/ini"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Repo is one stanza in one repository. Its methods may be called from several
// goroutines; who changes an info file holds the lock that guards it.
type Repo struct {
	storage storage.Storage
	key     int
	stanza  string
	program string
	poll    time.Duration

	noSymlinks bool
	encrypted  bool
	seal       Seal
	keys       keys
}

// Config says which repository and stanza a Repo is.
type Config struct {
	Key     int    // the N of repoN
	Stanza  string // a valid stanza name
	Program string // written as backrest-version into what is written

	// Poll is how often AwaitWAL looks.
	Poll time.Duration

	// Pass is the passphrase of the configuration; none in a repository that is not encrypted,
	// and where the storage itself sees to the info files, as on another host.
	Pass cipher.Pass
	// Encrypted says without a Pass that the repository is encrypted.
	Encrypted bool

	// NoSymlinks makes no symbolic links, though the storage could [repo-symlink].
	NoSymlinks bool
}

// New gives the stanza of c in the repository st.
func New(st storage.Storage, c Config) *Repo {
	r := &Repo{storage: st, key: c.Key, stanza: c.Stanza, program: c.Program, poll: c.Poll, noSymlinks: c.NoSymlinks}
	r.encrypted = c.Encrypted || c.Pass.Given()
	r.seal = Seal{Name: r.Name(), Pass: c.Pass}
	return r
}

// Key gives the number of the repository in the configuration.
func (r *Repo) Key() int { return r.key }

// Name gives what messages call the repository: "repo1".
func (r *Repo) Name() string { return fmt.Sprintf("repo%d", r.key) }

// Stanza gives the name of the stanza.
func (r *Repo) Stanza() string { return r.stanza }

// Storage gives what the repository is kept in.
func (r *Repo) Storage() storage.Storage { return r.storage }

// Stanzas lists the stanzas in a repository: those with an archive or a backup
// directory, each once.
func Stanzas(ctx context.Context, st storage.Storage) (map[string]bool, error) {
	all := map[string]bool{}
	for _, dir := range []string{"archive", "backup"} {
		for o, err := range st.List(ctx, dir, storage.Listing{Only: []storage.Type{storage.Dir}, NamesOnly: true}) {
			if err != nil {
				return nil, err
			}
			all[o.Name[len(dir)+1:]] = true
		}
	}
	return all, nil
}

// read gives the whole of a small object, as it is stored.
func (r *Repo) read(ctx context.Context, name string) ([]byte, error) {
	return r.decrypt(ctx, name, cipher.Pass{})
}

// decrypt gives the whole of a small object that is encrypted with pass, if that is given.
func (r *Repo) decrypt(ctx context.Context, name string, pass cipher.Pass) ([]byte, error) {
	in, err := r.storage.Open(ctx, name, storage.Range{})
	if err != nil {
		return nil, err
	}
	if !pass.Given() {
		b, err := io.ReadAll(in)
		return b, errors.Join(err, in.Close())
	}
	plain := cipher.NewReader(in, pass)
	b, err := io.ReadAll(plain)
	if errs.CodeOf(err) == errs.Crypto {
		err = errs.Wrap(err, "'%s'", r.storage.Path(name))
	}
	return b, errors.Join(err, plain.Close(), in.Close())
}

// readInfo gives the text of an info file.
func (r *Repo) readInfo(ctx context.Context, name string) ([]byte, error) {
	b, err := r.read(ctx, name)
	if err != nil {
		return nil, err
	}
	return r.seal.Open(r.storage.Path(name), b)
}

// loadInfo parses an info file, or its copy.
func loadInfo[T any](ctx context.Context, r *Repo, name string, parse func([]byte) (T, error)) (T, error) {
	return loadPair(ctx, r, name, func(ctx context.Context, name string) (v T, err error) {
		b, err := r.readInfo(ctx, name)
		if err != nil {
			return v, err
		}
		if v, err = parse(b); r.encrypted {
			err = unreadable(err)
		}
		return v, errs.Wrap(err, "'%s'", r.storage.Path(name))
	})
}

// loadPair loads an object, or its copy when the object is missing, unreadable or damaged. Both
// errors are told when neither will do.
func loadPair[T any](ctx context.Context, r *Repo, name string, load func(context.Context, string) (T, error)) (T, error) {
	v, err := load(ctx, name)
	if err == nil || ctx.Err() != nil {
		return v, err
	}
	v, cerr := load(ctx, name+format.CopySuffix)
	if cerr == nil {
		return v, nil
	}
	missing, copyMissing := errors.Is(err, fs.ErrNotExist), errors.Is(cerr, fs.ErrNotExist)
	code, hints := errs.CodeOf(err), errs.Hints(err)
	switch crypto := errs.CodeOf(cerr) == errs.Crypto; { // nothing is gained by saying it twice
	case code == errs.Crypto && (copyMissing || crypto):
		return v, err
	case missing && crypto:
		return v, cerr
	}
	switch {
	case missing && copyMissing:
		code = errs.FileMissing
	case missing: // the copy says what is wrong
		code, hints = errs.CodeOf(cerr), errs.Hints(cerr)
	}
	return v, &errs.Error{
		Code: code,
		Message: fmt.Sprintf("unable to load info file '%s' or '%s':\n%s: %s\n%s: %s",
			r.storage.Path(name), r.storage.Path(name+format.CopySuffix),
			errs.CodeOf(err), errs.Message(err), errs.CodeOf(cerr), errs.Message(cerr)),
		Hints: hints, Err: errors.Join(err, cerr),
	}
}

// unreadable is an error of a parser without what it quotes of the text: of one that was decrypted
// nobody else may see anything, as the passphrases of other files are in it.
func unreadable(err error) error {
	what := "it was decrypted, but what is in it is damaged"
	switch code := errs.CodeOf(err); {
	case errors.Is(err, ini.ErrOtherFormat):
		return err
	case code == errs.Format, code == errs.JSONFormat:
	case code == errs.Checksum:
		what = "it was decrypted, but what is in it does not have the checksum that it should"
	default:
		return err
	}
	return errs.WithHint(errs.New(errs.CodeOf(err), "%s", what), "is the disk damaged, or has the file been changed? take it from a copy of the repository")
}

// missingStanza adds what to do when an info file is not there.
func missingStanza(err error, what string) error {
	if !errors.Is(err, fs.ErrNotExist) || errs.CodeOf(err) != errs.FileMissing {
		return err
	}
	if what == "archive.info" {
		err = errs.WithHint(err, "archive.info cannot be opened but is required to push/get WAL segments.")
		err = errs.WithHint(err, "is archive_command configured correctly in postgresql.conf?")
		err = errs.WithHint(err, "has a stanza-create been performed?")
		return errs.WithHint(err, "use --no-archive-check to disable archive checks during backup if you have an alternate archiving scheme.")
	}
	err = errs.WithHint(err, "backup.info cannot be opened and is required to perform a backup.")
	return errs.WithHint(err, "has a stanza-create been performed?")
}

// ArchiveInfo loads archive.info, or its copy.
func (r *Repo) ArchiveInfo(ctx context.Context) (*info.Archive, error) {
	a, err := loadInfo(ctx, r, format.ArchiveInfoPath(r.stanza), info.ParseArchive)
	if err != nil {
		return nil, missingStanza(err, "archive.info")
	}
	return a, r.keep(&a.Stanza, "archive.info", &r.keys.archive)
}

// BackupInfo loads backup.info, or its copy, as it stands. See Reconstruct.
func (r *Repo) BackupInfo(ctx context.Context) (*info.Backup, error) {
	b, err := loadInfo(ctx, r, format.BackupInfoPath(r.stanza), info.ParseBackup)
	if err != nil {
		return nil, missingStanza(err, "backup.info")
	}
	return b, r.keep(&b.Stanza, "backup.info", &r.keys.backup)
}

// SaveArchiveInfo writes archive.info and then its copy, each durably.
func (r *Repo) SaveArchiveInfo(ctx context.Context, a *info.Archive) error {
	return r.savePair(ctx, format.ArchiveInfoPath(r.stanza), a)
}

// SaveBackupInfo writes backup.info and then its copy, each durably.
func (r *Repo) SaveBackupInfo(ctx context.Context, b *info.Backup) error {
	return r.savePair(ctx, format.BackupInfoPath(r.stanza), b)
}

type writable interface {
	Write(w io.Writer, program string) error
}

func (r *Repo) savePair(ctx context.Context, name string, v writable) error {
	var b bytes.Buffer
	if err := v.Write(&b, r.program); err != nil {
		return errs.Wrap(err, "write '%s'", r.storage.Path(name))
	}
	stored := r.seal.Close(b.Bytes())
	for _, n := range []string{name, name + format.CopySuffix} {
		if err := r.storage.Put(ctx, n, bytes.NewReader(stored), storage.Atomic); err != nil {
			return err
		}
	}
	return nil
}

// InfoFiles says which of the info files and their copies exist.
type InfoFiles struct{ Archive, ArchiveCopy, Backup, BackupCopy bool }

// InfoFiles looks which info files there are.
func (r *Repo) InfoFiles(ctx context.Context) (have InfoFiles, err error) {
	for name, there := range map[string]*bool{
		format.ArchiveInfoPath(r.stanza):                     &have.Archive,
		format.ArchiveInfoPath(r.stanza) + format.CopySuffix: &have.ArchiveCopy,
		format.BackupInfoPath(r.stanza):                      &have.Backup,
		format.BackupInfoPath(r.stanza) + format.CopySuffix:  &have.BackupCopy,
	} {
		_, err := r.storage.Stat(ctx, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return have, err
		}
		*there = err == nil
	}
	return have, nil
}

// MendInfo makes the missing one of an info file and its copy from the other and says
// whether one was missing.
func (r *Repo) MendInfo(ctx context.Context, have InfoFiles) (mended bool, err error) {
	mend := func(name string, main, copied bool) error {
		if main == copied {
			return nil
		}
		from, to := name, name+format.CopySuffix
		if copied {
			from, to = to, from
		}
		b, err := r.read(ctx, from)
		if err != nil {
			return err
		}
		mended = true
		return r.storage.Put(ctx, to, bytes.NewReader(b), storage.Atomic)
	}
	if err := mend(format.ArchiveInfoPath(r.stanza), have.Archive, have.ArchiveCopy); err != nil {
		return mended, err
	}
	return mended, mend(format.BackupInfoPath(r.stanza), have.Backup, have.BackupCopy)
}

// CompleteInit ends an Init that was interrupted after archive.info, if that is of the cluster
// that pg_control describes and of no other before, and there is no backup. It says whether it
// did. There may be WAL: a server that archives sends it as soon as there is archive.info.
func (r *Repo) CompleteInit(ctx context.Context, c postgres.Control) (bool, error) {
	a, err := r.ArchiveInfo(ctx)
	if err != nil {
		return false, err
	}
	row := clusterOf(c)
	if cur := a.Current(); len(a.History()) != 1 || cur.SystemID != row.SystemID || cur.Version != row.Version {
		return false, nil
	}
	labels, err := r.Labels(ctx)
	if err != nil || len(labels) > 0 {
		return false, err
	}
	if err := r.SaveArchiveInfo(ctx, a); err != nil {
		return false, err
	}
	return true, r.SaveBackupInfo(ctx, info.NewBackup(row, r.NewPass()))
}

// clusterOf gives the first row of the history of a stanza.
func clusterOf(c postgres.Control) format.Cluster {
	return format.Cluster{
		ID: 1, SystemID: c.SystemID, Version: c.Version.String(),
		ControlVersion: c.ControlVersion, CatalogVersion: c.CatalogVersion,
	}
}

// Init makes the stanza for the cluster that pg_control describes. Directories that
// hold anything but no info files are PathNotEmpty.
func (r *Repo) Init(ctx context.Context, c postgres.Control) error {
	holds := func(dir string) (bool, error) {
		for _, err := range r.storage.List(ctx, dir, storage.Listing{NamesOnly: true}) {
			return err == nil, err
		}
		return false, nil
	}
	backups, err := holds(format.BackupDir(r.stanza))
	if err != nil {
		return err
	}
	archive, err := holds(format.ArchiveDir(r.stanza))
	if err != nil {
		return err
	}
	what := ""
	switch {
	case backups && archive:
		what = "backup directory and/or archive directory "
	case backups:
		what = "backup directory "
	case archive:
		what = "archive directory "
	}
	if what != "" {
		err := errs.New(errs.PathNotEmpty, "%snot empty", what)
		return errs.WithHint(err, "look at '%s' and '%s': remove what is not needed, or choose another stanza name",
			r.storage.Path(format.BackupDir(r.stanza)), r.storage.Path(format.ArchiveDir(r.stanza)))
	}
	row := clusterOf(c)
	if err := r.SaveArchiveInfo(ctx, info.NewArchive(row, r.NewPass())); err != nil {
		return err
	}
	return r.SaveBackupInfo(ctx, info.NewBackup(row, r.NewPass()))
}
