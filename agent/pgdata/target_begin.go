package pgdata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
)

// place is a directory that a restore cleans or makes: the data directory, a
// tablespace's directory, what a link leads to.
type place struct {
	TargetRoot
	name   string // of what is in it
	path   string
	exists bool
}

// Begin makes the target ready for files. First it looks at every directory and
// refuses, with nothing changed, one that is not ours or not empty. Then, in this
// order, because the machine may stop at any step: pg_control is removed, so that
// nothing half restored starts; the marker is written; what the backup does not have is
// removed; directories and links are made. marker writes the marker's content, the
// manifest of this restore.
func (t *Target) Begin(ctx context.Context, layout Layout, marker func(io.Writer) error) error {
	places, err := t.inspect(ctx, layout)
	if err != nil {
		return err
	}
	t.links = make(map[string]TargetLink, len(layout.Links))
	for _, k := range layout.Links {
		t.links[k.Name] = k
	}
	fallback := owner{uid: os.Geteuid(), gid: os.Getegid(), set: os.Geteuid() == 0}
	if info, err := os.Stat(t.path); err == nil {
		fallback.uid, fallback.gid = ownerOf(info)
	}
	t.owners = t.resolveOwners(layout.Users, layout.Groups, fallback)

	base, ok := t.dirNamed(dataName)
	if !ok {
		return errs.New(errs.Format, "manifest has no path '%s'", dataName)
	}
	if !places[0].exists {
		if err := makeRoot(t.path, perm(base.Mode), t.owners.of(base.User, base.Group)); err != nil {
			return err
		}
	}
	if t.data, err = openRoot(t.path); err != nil {
		return err
	}
	if err := t.removeControl(); err != nil {
		return err
	}
	if err := t.writeMarker(marker); err != nil {
		return err
	}
	if t.spool != "" {
		if err := removeSpool(t.spool); err != nil {
			return errs.WrapAs(errs.PathRemove, err, "unable to remove path '%s'", t.spool)
		}
	}
	for _, p := range places {
		if err := t.openPlace(ctx, p); err != nil {
			return err
		}
	}
	return t.build(ctx)
}

// Inspect refuses what Begin would refuse, such as a directory that is not empty, and
// changes nothing.
func (t *Target) Inspect(ctx context.Context, layout Layout) error {
	_, err := t.inspect(ctx, layout)
	return err
}

func (t *Target) inspect(ctx context.Context, layout Layout) ([]place, error) {
	if err := layout.check(); err != nil {
		return nil, err
	}
	t.layout = layout
	t.layout.Keep = append([]string{markerFile}, layout.Keep...)
	return t.checkPlaces(ctx)
}

// checkPlaces looks at all directories without changing any. The data directory is
// the first it gives.
func (t *Target) checkPlaces(ctx context.Context) ([]place, error) {
	places := []place{{TargetRoot: TargetRoot{Name: dataName, Path: t.path}, name: dataName, path: t.path}}
	for _, r := range t.layout.Roots {
		p := place{TargetRoot: r, name: r.Name, path: r.Path}
		if r.Version != "" {
			p.name, p.path = r.Name+"/"+r.Version, r.Path+"/"+r.Version
		}
		places = append(places, p)
	}
	seen := map[string]bool{}
	for i := range places {
		p := &places[i]
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !seen[p.path] {
			seen[p.path] = true
			t.detail("check '%s' exists", p.path)
		}
		if err := t.checkPlace(p); err != nil {
			return nil, err
		}
	}
	return places, nil
}

func (t *Target) checkPlace(p *place) error {
	info, err := os.Stat(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errs.WrapAs(errs.FileInfo, err, "unable to get info for path/file '%s'", p.path)
	}
	if uid, _ := ownerOf(info); os.Geteuid() != 0 && uid != os.Geteuid() {
		return errs.New(errs.PathOpen, "unable to restore to path '%s' not owned by current user", p.path)
	}
	if info.Mode().Perm()&0o700 != 0o700 {
		return errs.New(errs.PathOpen, "unable to restore to path '%s' without rwx permissions", p.path)
	}
	p.exists = true
	d, err := openRoot(p.path)
	if err != nil {
		return err
	}
	defer d.close()
	if t.layout.Clean {
		return nil
	}
	const hint = "try using --delta if this is what you intended."
	if p.File != "" {
		if _, found, err := d.stat(p.File); err != nil || !found {
			return err
		}
		return errs.WithHint(errs.New(errs.FileExists,
			"unable to restore file '%s' because it already exists", d.child(p.File)), hint)
	}
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		st, ok, err := d.stat(name)
		if err != nil {
			return err
		}
		if ok && !t.kept(p.name, name, st) {
			return errs.WithHint(errs.New(errs.PathNotEmpty,
				"unable to restore to path '%s' because it contains files", p.path), hint)
		}
	}
	return nil
}

// kept says whether cleaning passes over an entry of the directory called dirName.
func (t *Target) kept(dirName, name string, st unix.Stat_t) bool {
	return dirName == dataName && st.Mode&unix.S_IFMT == unix.S_IFREG && slices.Contains(t.layout.Keep, name)
}

// removeControl removes pg_control durably, so that the cluster cannot start until
// Finish. It may be behind a link: one the restore keeps is followed to its root,
// any other is removed itself, which serves as well.
func (t *Target) removeControl() error {
	st, ok, err := t.data.stat("global")
	if err != nil || !ok {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return t.removeLinkedControl()
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil // no cluster; cleaning removes it
	}
	global, err := t.data.open("global")
	if err != nil {
		return err
	}
	defer global.close()
	return t.removeControlIn(global)
}

func (t *Target) removeControlIn(global *dir) error {
	if _, ok, err := global.stat(controlName); err != nil || !ok {
		return err
	}
	t.detail("remove 'global/pg_control' so cluster will not start if restore does not complete")
	if err := global.remove(controlName); err != nil {
		return err
	}
	return global.sync()
}

func (t *Target) removeLinkedControl() error {
	for _, r := range t.layout.Roots {
		if r.Name != controlDir {
			continue
		}
		global, err := openRoot(r.Path)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		err = t.removeControlIn(global)
		global.close()
		if err != nil {
			return err
		}
	}
	t.detail("remove link '%s' so cluster will not start if restore does not complete", t.data.child("global"))
	if err := t.data.remove("global"); err != nil {
		return err
	}
	return t.data.sync()
}

// writeMarker leaves backup.manifest in the data directory. That it exists is what
// counts, to pgBackRest as well, so it is there, empty, before its content is written
// beside it: there is no moment in which the directory holds something else but
// nothing to know it by.
func (t *Target) writeMarker(write func(io.Writer) error) error {
	const temp = markerFile + ".pgbackrest.tmp"
	if st, ok, err := t.data.stat(markerFile); err != nil {
		return err
	} else if ok && st.Mode&unix.S_IFMT != unix.S_IFREG {
		if err := t.data.removeAll(markerFile); err != nil {
			return err
		}
	}
	if fd, err := unix.Openat(t.data.fd, markerFile, unix.O_WRONLY|unix.O_CREAT|noFollow, 0o600); err != nil {
		return writeError(err, t.data.child(markerFile))
	} else if err := unix.Close(fd); err != nil {
		return writeError(err, t.data.child(markerFile))
	}
	if err := t.data.sync(); err != nil {
		return err
	}
	if err := t.data.removeAll(temp); err != nil {
		return err
	}
	f, err := t.data.create(temp)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := write(f); err != nil {
		_ = t.data.remove(temp)
		return writeError(err, t.data.child(markerFile))
	}
	st, err := t.data.self()
	if err != nil {
		return err
	}
	own := owner{uid: int(st.Uid), gid: int(st.Gid), set: t.owners.root}
	if err := settle(f, 0o600, own, nil); err != nil {
		return err
	}
	if err := unix.Renameat(t.data.fd, temp, t.data.fd, markerFile); err != nil {
		return errs.New(errs.FileMove, "unable to move '%s' to '%s': %w", f.Name(), t.data.child(markerFile), err)
	}
	return t.data.sync()
}

// openPlace cleans a directory that exists, makes one that does not, and keeps it open.
func (t *Target) openPlace(ctx context.Context, p place) error {
	attr, ok := t.dirNamed(p.Name)
	if p.File != "" { // the manifest says nothing of a linked file's directory
		attr, ok = t.dirNamed(dataName)
	}
	if !ok {
		return errs.New(errs.Format, "manifest has no path '%s'", p.Name)
	}
	own := t.owners.of(attr.User, attr.Group)
	d := t.data
	if p.Name != dataName {
		if _, err := os.Stat(p.Path); errors.Is(err, fs.ErrNotExist) {
			if err := makeRoot(p.Path, perm(attr.Mode), own); err != nil {
				return err
			}
		}
		var err error
		if d, err = openRoot(p.Path); err != nil {
			return err
		}
		t.roots = append(t.roots, root{p.TargetRoot, d})
		slices.SortStableFunc(t.roots, func(a, b root) int { return len(b.Name) - len(a.Name) })
		if p.Version != "" {
			if attr, ok = t.dirNamed(p.name); !ok {
				return errs.New(errs.Format, "manifest has no path '%s'", p.name)
			}
			if !p.exists {
				if err := d.mkdir(p.Version, perm(attr.Mode), t.owners.of(attr.User, attr.Group)); err != nil {
					return err
				}
			}
			if d, err = d.open(p.Version); err != nil {
				return err
			}
			defer d.close()
		}
	}
	if !p.exists || p.File != "" {
		return nil
	}
	if t.layout.Clean {
		t.log.Info(fmt.Sprintf("remove invalid files/links/paths from '%s'", p.path))
	}
	st, err := d.self()
	if err != nil {
		return err
	}
	if err := t.adjust(d, ".", attr.User, attr.Group, attr.Mode, st); err != nil {
		return err
	}
	if !t.layout.Clean {
		return nil // it was empty a moment ago; what came since is not ours to remove
	}
	return t.clean(ctx, d, p.name)
}

// build makes what is missing of directories and links. What exists has been put
// right by cleaning.
func (t *Target) build(ctx context.Context) error {
	for _, at := range t.layout.Dirs {
		if err := ctx.Err(); err != nil {
			return err
		}
		// pg_tblspc holds tablespaces in a manifest only; on disk it is in pg_data.
		if at.Name == "pg_tblspc" || at.Name == dataName || t.isRoot(at.Name) {
			continue
		}
		if _, linked := t.link(at.Name); linked {
			continue
		}
		if err := t.makeDir(at); err != nil {
			return err
		}
	}
	for _, k := range t.layout.Links {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.makeLink(k); err != nil {
			return err
		}
	}
	return nil
}

func (t *Target) isRoot(name string) bool {
	return slices.ContainsFunc(t.roots, func(r root) bool { return r.Name == name })
}

func (t *Target) makeDir(at TargetDir) error {
	d, base, err := t.parent(at.Name)
	if err != nil {
		return err
	}
	defer d.close()
	if base == "." {
		return nil
	}
	if _, ok, err := d.stat(base); err != nil || ok {
		return err
	}
	t.detail("create path '%s'", t.shown(at.Name))
	return d.mkdir(base, perm(at.Mode), t.owners.of(at.User, at.Group))
}

func (t *Target) makeLink(k TargetLink) error {
	d, base, err := t.linkParent(k.Name)
	if err != nil {
		return err
	}
	defer d.close()
	if _, ok, err := d.stat(base); err != nil || ok {
		return err
	}
	t.detail("create symlink '%s' to '%s'", t.shown(k.Name), k.Destination)
	return d.symlink(k.Destination, base, t.owners.of(k.User, k.Group))
}

func (t *Target) dirNamed(name string) (TargetDir, bool) {
	i, ok := slices.BinarySearchFunc(t.layout.Dirs, name, func(d TargetDir, n string) int {
		return strings.Compare(d.Name, n)
	})
	if !ok {
		return TargetDir{}, false
	}
	return t.layout.Dirs[i], true
}

// shown is the path of an entry as it is seen from the data directory.
func (t *Target) shown(name string) string {
	if rel, ok := trimData(name); ok {
		return filepath.Clean(t.path + "/" + rel)
	}
	return path.Join(t.path, name)
}

func (t *Target) detail(format string, args ...any) {
	t.log.Log(context.Background(), logging.LevelDetail, fmt.Sprintf(format, args...))
}

// removeSpool removes the spool. A process that still fetches WAL for the cluster that was
// here leaves as soon as it sees that, and may put a file there meanwhile.
func removeSpool(path string) error {
	for tries := 0; ; tries++ {
		err := os.RemoveAll(path)
		if !errors.Is(err, unix.ENOTEMPTY) || tries == 10 {
			return err
		}
	}
}
