package pgdata

import (
	"context"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// clean removes from d, called dirName in the manifest, what the backup does not have
// there, and gives what it has its owner and mode.
func (t *Target) clean(ctx context.Context, d *dir, dirName string) error {
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, base := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, ok, err := d.stat(base)
		if err != nil {
			return err
		}
		if !ok || t.kept(dirName, base, st) {
			continue
		}
		name := dirName + "/" + base
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			err = t.cleanFile(d, base, name, st)
		case unix.S_IFLNK:
			err = t.cleanLink(d, base, name, st)
		case unix.S_IFDIR:
			err = t.cleanDir(ctx, d, base, name, st)
		default:
			t.detail("remove special file '%s'", d.child(base))
			err = d.remove(base)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *Target) cleanFile(d *dir, base, name string, st unix.Stat_t) error {
	f, ok := t.layout.File(name)
	if _, linked := t.link(name); !ok || linked {
		t.detail("remove invalid file '%s'", d.child(base))
		return d.remove(base)
	}
	// A file that has another name, as pg_upgrade --link leaves them, is not ours alone:
	// its owner and mode would change under that name too.
	if st.Nlink != 1 {
		t.detail("remove file '%s' because it has other links", d.child(base))
		return d.remove(base)
	}
	return t.adjust(d, base, f.User, f.Group, f.Mode, st)
}

func (t *Target) cleanLink(d *dir, base, name string, st unix.Stat_t) error {
	k, ok := t.link(name)
	if !ok {
		t.detail("remove invalid link '%s'", d.child(base))
		return d.remove(base)
	}
	dest, err := d.readlink(base)
	if err != nil {
		return err
	}
	if dest != k.Destination {
		t.detail("remove link '%s' because destination changed", d.child(base))
		return d.remove(base)
	}
	return t.adjustOwner(d, base, k.User, k.Group, st)
}

func (t *Target) cleanDir(ctx context.Context, d *dir, base, name string, st unix.Stat_t) error {
	at, ok := t.dirNamed(name)
	if _, linked := t.link(name); !ok || linked {
		t.detail("remove invalid path '%s'", d.child(base))
		return d.removeAll(base)
	}
	if err := t.adjust(d, base, at.User, at.Group, at.Mode, st); err != nil {
		return err
	}
	sub, err := d.open(base)
	if err != nil {
		return err
	}
	defer sub.close()
	return t.clean(ctx, sub, name)
}

// adjust gives an entry the owner and mode the backup has for it.
func (t *Target) adjust(d *dir, base, user, group string, mode fs.FileMode, st unix.Stat_t) error {
	if err := t.adjustOwner(d, base, user, group, st); err != nil {
		return err
	}
	if st.Mode&0o777 == perm(mode) {
		return nil
	}
	t.detail("update mode for '%s' to %04o", d.join(base), perm(mode))
	return d.chmod(base, perm(mode))
}

func (t *Target) adjustOwner(d *dir, base, user, group string, st unix.Stat_t) error {
	own := t.owners.of(user, group)
	if int(st.Uid) == own.uid && int(st.Gid) == own.gid {
		return nil
	}
	t.detail("update ownership for '%s'", d.join(base))
	return d.chown(base, own.uid, own.gid)
}

func (t *Target) link(name string) (TargetLink, bool) {
	k, ok := t.links[name]
	return k, ok
}

func (d *dir) join(base string) string {
	if base == "." {
		return d.path
	}
	return d.child(base)
}

func ownerOf(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return os.Geteuid(), os.Getegid()
}

// perm gives the permission bits, all that a manifest records.
func perm(mode fs.FileMode) uint32 { return uint32(mode.Perm()) }

func trimData(name string) (string, bool) {
	if name == dataName {
		return "", true
	}
	return strings.CutPrefix(name, dataName+"/")
}
