package pgdata

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
)

// Names that a restore treats in its own way, relative to the data directory.
const (
	markerFile  = "backup.manifest"
	controlDir  = "pg_data/global"
	controlName = "pg_control"
	controlFile = controlDir + "/" + controlName
	controlTemp = controlName + ".pgbackrest.tmp"
	pidFile     = "postmaster.pid"
	versionFile = "PG_VERSION"
	dataName    = "pg_data"
)

// TargetConfig says where a Target writes.
type TargetConfig struct {
	Path string // the data directory, absolute
	// Spool is the stanza's directory of the archive spool, removed when a restore
	// begins: an acknowledgement left there would hide WAL of the new cluster. Empty:
	// nothing is removed.
	Spool string
	Log   *slog.Logger
}

// Target puts a backup back in place on this host. Its order is what keeps a half
// restored cluster from starting: pg_control goes first and returns last, everything
// else being durable by then. From Begin to Finish the file backup.manifest marks the
// data directory, by which this program and pgBackRest know that a later restore may
// take it up with --delta.
//
// Check comes first, then Begin; Match and Put may then run from many goroutines; Read
// and Write follow; Finish ends the restore. Close is always needed.
type Target struct {
	path, spool string
	log         *slog.Logger

	layout Layout
	links  map[string]TargetLink
	owners owners
	data   *dir   // the data directory
	roots  []root // directories elsewhere, longest name first

	written durable.Batch // files
}

// root is a directory outside the data directory that files are restored to.
type root struct {
	TargetRoot
	*dir
}

// NewTarget makes a Target. It does nothing yet.
func NewTarget(cfg TargetConfig) *Target {
	return &Target{path: path.Clean(cfg.Path), spool: cfg.Spool, log: cfg.Log}
}

// Close lets go of the target as it is. A restore that did not reach Finish leaves a
// cluster that cannot start.
func (t *Target) Close() error {
	_ = t.written.Flush() // an error was told by Put or Finish, or the restore has failed already
	if t.data != nil {
		t.data.close()
		t.data = nil
	}
	for _, r := range t.roots {
		if r.dir != nil {
			r.close()
		}
	}
	t.roots = nil
	return nil
}

// Layout is all that a restore puts in place, but for the content of files. Names are
// those of a manifest: pg_data/… and pg_tblspc/OID/….
type Layout struct {
	Roots []TargetRoot
	Dirs  []TargetDir // in byte order of their names
	Links []TargetLink
	// File describes the file of that name, if the backup has it. Cleaning asks it for
	// name, owner and mode.
	File func(name string) (TargetFile, bool)
	// Files gives all that File knows, in byte order of their names. Only a Target on
	// another host, which cannot ask, needs it, and only with Clean.
	Files iter.Seq[TargetFile]
	// Users and Groups are all that Dirs, Links and files name; "" is an owner
	// the backup had no name for.
	Users, Groups []string
	// Clean allows files to be there already, and removes what the backup does not
	// have: --delta and --force.
	Clean bool
	// Keep are files directly in the data directory that are left as they are.
	Keep []string
}

// TargetRoot is a place outside the data directory: a tablespace or what a link leads to.
type TargetRoot struct {
	Name string // as in the manifest's targets: pg_tblspc/OID or pg_data/…
	Path string // absolute directory
	// Version is a tablespace's directory of this PostgreSQL version, such as
	// PG_15_202209061. Nothing else in Path is touched.
	Version string
	File    string // of a link to a file: its name in Path
}

// TargetDir is a directory to be there.
type TargetDir struct {
	Name, User, Group string
	Mode              fs.FileMode
}

// TargetLink is a symbolic link to be there.
type TargetLink struct {
	Name, Destination, User, Group string
}

// TargetFile is a file to be there.
type TargetFile struct {
	Name, User, Group string
	Mode              fs.FileMode
	Size              int64
	ModTime           time.Time
	SHA1              [20]byte // of the content; not looked at when Size is 0
	Zero              bool     // Size bytes that are all zero, on disk a hole
}

// Check looks whether a restore may begin: no server may be running in the data
// directory. It says whether the directory looks like PostgreSQL's, or like a restore
// that was interrupted; in any other, nothing may be cleaned.
func (t *Target) Check(ctx context.Context) (recognised bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	exists := func(name string) (bool, error) {
		_, err := os.Stat(t.path + "/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, errs.WrapAs(errs.FileInfo, err, "unable to get info for path/file '%s'", t.path+"/"+name)
	}
	running, err := exists(pidFile)
	if err != nil {
		return false, err
	}
	if running {
		return false, errs.WithHint(errs.WithHint(
			errs.New(errs.PgRunning, "unable to restore while PostgreSQL is running"),
			"presence of 'postmaster.pid' in '%s' indicates PostgreSQL is running.", t.path),
			"remove 'postmaster.pid' only if PostgreSQL is not running.")
	}
	for _, name := range []string{versionFile, markerFile} {
		if found, err := exists(name); err != nil || found {
			return found, err
		}
	}
	return false, nil
}

// CheckName refuses what no entry of a manifest can be called: names that would leave
// the data directory and the tablespaces, and those a restore keeps for itself.
func CheckName(name string) error {
	bad := func(why string) error {
		return errs.New(errs.Format, "manifest holds the name '%s', which %s", name, why)
	}
	if name == "" || strings.ContainsRune(name, 0) {
		return bad("no file can have")
	}
	if path.IsAbs(name) || path.Clean(name) != name {
		return bad("would lead outside the data directory")
	}
	first, rest, _ := strings.Cut(name, "/")
	switch first {
	case dataName:
	case "pg_tblspc":
		oid, _, _ := strings.Cut(rest, "/")
		if rest != "" && (oid == "" || strings.Trim(oid, "0123456789") != "") {
			return bad("is in no tablespace")
		}
	default:
		return bad("would lead outside the data directory")
	}
	if name == dataName+"/"+markerFile || name == controlDir+"/"+controlTemp || name == dataName+"/"+pidFile {
		return bad("no backup can have")
	}
	return nil
}

// check refuses names before anything is touched.
func (l Layout) check() error {
	for _, r := range l.Roots {
		if err := CheckName(r.Name); err != nil {
			return err
		}
		if !path.IsAbs(r.Path) {
			return errs.New(errs.Format, "destination '%s' of link '%s' is not absolute", r.Path, r.Name)
		}
		for _, part := range []string{r.Version, r.File} {
			if strings.ContainsAny(part, "/\x00") || part == "." || part == ".." {
				return errs.New(errs.Format, "manifest holds the name '%s', which would lead outside the data directory", part)
			}
		}
	}
	for _, d := range l.Dirs {
		if err := CheckName(d.Name); err != nil {
			return err
		}
	}
	for _, k := range l.Links {
		if err := CheckName(k.Name); err != nil {
			return err
		}
	}
	return nil
}

// locate finds the directory that holds what is called name, already behind links
// that the restore itself makes, and the path from there.
func (t *Target) locate(name string) (*dir, string, error) {
	if err := CheckName(name); err != nil {
		return nil, "", err
	}
	for _, r := range t.roots {
		switch {
		case r.File != "":
			if name == r.Name {
				return r.dir, r.File, nil
			}
		case name == r.Name:
			return r.dir, ".", nil
		case strings.HasPrefix(name, r.Name) && name[len(r.Name)] == '/':
			rel := name[len(r.Name)+1:]
			if first, _, _ := strings.Cut(rel, "/"); r.Version != "" && first != r.Version {
				return nil, "", errs.New(errs.Format,
					"manifest holds the name '%s', which is not in the tablespace's directory '%s'", name, r.Version)
			}
			return r.dir, rel, nil
		}
	}
	if rel, ok := strings.CutPrefix(name, dataName+"/"); ok {
		return t.data, rel, nil
	}
	if name == dataName {
		return t.data, ".", nil
	}
	return nil, "", errs.New(errs.Format, "manifest holds the name '%s', which would lead outside the data directory", name)
}

// parent opens the directory that an entry is made in and gives the entry's own name.
func (t *Target) parent(name string) (*dir, string, error) {
	at, rel, err := t.locate(name)
	if err != nil {
		return nil, "", err
	}
	d, err := at.open(path.Dir(rel))
	return d, path.Base(rel), err
}

// linkParent is parent for a link itself, which is not where its name leads to.
func (t *Target) linkParent(name string) (*dir, string, error) {
	at, rel, err := t.locate(path.Dir(name))
	if err != nil {
		return nil, "", err
	}
	d, err := at.open(rel)
	return d, path.Base(name), err
}

// Read gives the content of a small file of the data directory, such as a
// configuration file. A missing one is FileMissing.
func (t *Target) Read(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, base, err := t.parent(dataName + "/" + name)
	if err != nil {
		return nil, err
	}
	defer d.close()
	if _, ok, err := d.stat(base); err != nil || !ok {
		if err == nil {
			err = errs.New(errs.FileMissing, "unable to open missing file '%s' for read", d.child(base))
		}
		return nil, err
	}
	f, _, err := d.openFile(base, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	const limit = 64 << 20
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && len(content) > limit {
		err = errs.New(errs.FileRead, "it is larger than 64MB")
	}
	return content, errs.WrapAs(errs.FileRead, err, "unable to read '%s'", f.Name())
}

// Write puts a small file into the data directory, with its owner and its permission
// to read and write. It replaces what was there and is durable but for its name.
func (t *Target) Write(ctx context.Context, name string, content []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	st, err := t.data.self()
	if err != nil {
		return err
	}
	own := owner{uid: int(st.Uid), gid: int(st.Gid), set: t.owners.root}
	d, base, err := t.parent(dataName + "/" + name)
	if err != nil {
		return err
	}
	defer d.close()
	return d.writeFile(base, content, st.Mode&0o644, own, nil)
}

// writeFile replaces a file by a new one with this content.
func (d *dir) writeFile(base string, content []byte, mode uint32, own owner, mtime *unix.Timespec) error {
	if err := d.remove(base); err != nil {
		return err
	}
	f, err := d.create(base)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Write(content); err != nil {
		return writeError(err, f.Name())
	}
	return settle(f, mode, own, mtime)
}
