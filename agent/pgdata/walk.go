package pgdata

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// Source is a data directory to back up: it is listed and its files are read, nothing
// is written. Its methods may be called from several goroutines at once.
type Source struct {
	path string
}

// NewSource makes a Source of the data directory path, which must be absolute. It is not
// looked at yet.
func NewSource(path string) *Source { return &Source{path: filepath.Clean(path)} }

// Listing says what List shows.
type Listing struct {
	Version postgres.Version

	// CatalogVersion with Version names the subdirectory of a tablespace that is this
	// cluster's; others are left alone.
	CatalogVersion uint32

	// Online leaves out the WAL, which a running cluster archives.
	Online bool

	// Exclude holds names relative to the data directory. One that ends in a slash
	// excludes what is in that directory, any other the name itself.
	Exclude []string
}

// Kind is what an Entry tells of.
type Kind int

// The kinds of Entry. Special and Excluded are not part of the backup; they are given
// so that the caller can tell the operator.
const (
	Dir Kind = iota
	File
	Link
	Special  // a socket, a pipe, a device
	Excluded // left out because of Listing.Exclude
)

// Entry is one thing found in a data directory.
type Entry struct {
	Kind Kind

	// Name as a manifest has it: pg_data/…, and pg_tblspc/OID/… for what is in a
	// tablespace. What is behind another link has the name it is seen under.
	Name string

	Mode fs.FileMode // permission bits; not of a Link

	// User and Group are empty where the id has no name. But when the owner of the data
	// directory has none, such ids are given as decimal numbers: nothing else would tell
	// whose the cluster is.
	User, Group string

	Size    int64 // of a File
	ModTime int64 // of a File, seconds since 1970

	Target     string // of a Link: where it leads, as it says
	ToFile     bool   // of a Link that leads to a file
	Tablespace uint32 // of a Link in pg_tblspc: the oid

	Path      string // of what is Special or Excluded: where it is
	Exclusion string // of Excluded: which one it was
}

// List walks the data directory, its tablespaces and what its links lead to, and leaves
// out what a backup never holds (see the exclusions of the repository format, 11.2).
// A link is given before what it leads to, a directory before what is in it, and names in
// one directory in byte order.
//
// Beside the links in pg_tblspc, a tablespace is given as the directories pg_tblspc and
// pg_tblspc/OID, which exist in the manifest only.
//
// What disappears during the walk is normal and not given. Links to links, into the data
// directory, to one place or below one another are LinkDestination, what is no link in
// pg_tblspc is LinkExpected. After an error nothing more follows.
func (s *Source) List(ctx context.Context, l Listing) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		w := walker{
			ctx: ctx, yield: func(e Entry) bool { return yield(e, nil) }, source: s, online: l.Online,
			version: l.Version, tablespace: postgres.TablespaceDir(l.Version, l.CatalogVersion),
			links: linkSet{pgdata: s.path}, single: map[string]string{}, content: map[string]string{},
		}
		for _, x := range l.Exclude {
			if dir, ok := strings.CutSuffix(x, "/"); ok {
				w.content[rootName+"/"+dir] = x
			} else {
				w.single[rootName+"/"+x] = x
			}
		}
		if err := w.walk(); err != nil && !errors.Is(err, errEnough) {
			yield(Entry{}, err)
		}
	}
}

const (
	rootName        = "pg_data"
	tablespaceName  = "pg_tblspc"
	tablespaceLinks = rootName + "/" + tablespaceName
)

// errEnough ends a walk whose caller wants no more.
var errEnough = errors.New("walk ended by the caller")

type walker struct {
	ctx    context.Context // the walk is one call: it lives no longer than List
	yield  func(Entry) bool
	source *Source

	online     bool
	version    postgres.Version
	tablespace string            // this cluster's directory in a tablespace
	single     map[string]string // manifest name to the exclusion that names it
	content    map[string]string

	owners   ownerNames
	links    linkSet
	root     Entry // pg_data
	spcLinks Entry // pg_data/pg_tblspc
	spcGiven bool  // pg_tblspc was
}

// A walkDir is a directory being walked.
type walkDir struct {
	fd   int
	name string // in the manifest
	path string
}

func (p walkDir) child(base string) string { return p.name + "/" + base }

func (w *walker) walk() error {
	fd, err := openAt(unix.AT_FDCWD, w.source.path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return errs.WrapAs(errs.PathOpen, err, "open data directory '%s'", w.source.path)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return errs.WrapAs(errs.FileInfo, err, "look at data directory '%s'", w.source.path)
	}
	w.owners.belongsTo(st.Uid, st.Gid)
	w.root = w.entry(Dir, rootName, &st)
	if !w.yield(w.root) {
		unix.Close(fd)
		return errEnough
	}
	return w.contents(walkDir{fd: fd, name: rootName, path: w.source.path})
}

// contents walks what is in a directory and closes it.
func (w *walker) contents(p walkDir) error {
	f := os.NewFile(uintptr(p.fd), p.path)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // an error of one that is removed just now
		return errs.WrapAs(errs.PathOpen, err, "list directory '%s'", p.path)
	}
	slices.Sort(names)
	for _, base := range names {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if w.unlogged(p, base, names) {
			continue
		}
		var st unix.Stat_t
		err := retry(func() error { return unix.Fstatat(p.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) })
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return errs.WrapAs(errs.FileInfo, err, "look at '%s/%s'", p.path, base)
		}
		if err := w.item(p, base, &st, false); err != nil {
			return err
		}
	}
	return nil
}

// unlogged says whether base belongs to an unlogged relation, of which only the
// initialisation fork is stored: it is among the sorted names, and not excluded.
func (w *walker) unlogged(p walkDir, base string, names []string) bool {
	init, ok := postgres.UnloggedInit(p.child(base))
	if !ok {
		return false
	}
	if _, excluded := w.single[init]; excluded {
		return false
	}
	_, found := slices.BinarySearch(names, init[len(p.name)+1:])
	return found
}

// item gives the entry base of p and, when it is a directory or a link, what is behind.
// followed says that st is of what the link base leads to.
func (w *walker) item(p walkDir, base string, st *unix.Stat_t, followed bool) error {
	name := p.child(base)
	if postgres.ExcludedDir(name) {
		return nil // whatever it is
	}
	if x, ok := w.single[name]; ok {
		return w.give(Entry{Kind: Excluded, Name: name, Path: p.path + "/" + base, Exclusion: x})
	}
	kind := st.Mode & unix.S_IFMT
	if p.name == tablespaceLinks && (kind == unix.S_IFDIR || kind == unix.S_IFREG) {
		return errs.New(errs.LinkExpected, "'%s' is not a symlink - pg_tblspc should contain only symlinks", name)
	}
	switch kind {
	case unix.S_IFDIR:
		return w.directory(p, base, st, followed)
	case unix.S_IFREG:
		if postgres.ExcludedFile(name, w.version, w.online) {
			return nil
		}
		return w.give(w.entry(File, name, st))
	case unix.S_IFLNK:
		return w.link(p, base, st)
	}
	return w.give(Entry{Kind: Special, Name: name, Path: p.path + "/" + base})
}

func (w *walker) directory(p walkDir, base string, st *unix.Stat_t, followed bool) error {
	e := w.entry(Dir, p.child(base), st)
	if e.Name == tablespaceLinks {
		w.spcLinks = e
	}
	if err := w.give(e); err != nil {
		return err
	}
	path := p.path + "/" + base
	if x, ok := w.content[e.Name]; ok {
		return w.give(Entry{Kind: Excluded, Name: e.Name, Path: path, Exclusion: x})
	}
	if postgres.ExcludedContents(e.Name, w.online) {
		return nil
	}
	open := openDirectory
	if followed {
		open = p.openBehind
	}
	fd, err := open(p.fd, base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errs.WrapAs(errs.PathOpen, err, "open directory '%s'", path)
	}
	return w.contents(walkDir{fd: fd, name: e.Name, path: path})
}

func (w *walker) entry(kind Kind, name string, st *unix.Stat_t) Entry {
	e := Entry{
		Kind: kind, Name: name, Mode: fs.FileMode(st.Mode & 0o777),
		User: w.owners.user(st.Uid), Group: w.owners.group(st.Gid),
	}
	if kind == File {
		e.Size, e.ModTime = st.Size, st.Mtim.Sec
	}
	return e
}

func (w *walker) give(e Entry) error {
	if !w.yield(e) {
		return errEnough
	}
	return nil
}

// openDirectory opens a directory for reading, in the directory at.
func openDirectory(at int, base string) (int, error) {
	return openAt(at, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
}

// openBehind opens for reading the directory that a link in p leads to.
func (p walkDir) openBehind(at int, base string) (int, error) {
	return openPart(at, base, unix.O_RDONLY|unix.O_DIRECTORY, p.path)
}

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
