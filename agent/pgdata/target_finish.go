package pgdata

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// Finish makes the restored cluster whole. The order is what protects it, because the
// machine may stop at any step:
//
//  1. what all files hold is made durable, as far as it is not yet;
//  2. the marker is removed. Until the last step pg_control is missing, so nothing
//     starts, and PG_VERSION lets the next restore use --delta;
//  3. every directory is synced: all other names are durable before pg_control's;
//  4. pg_control of an online backup is made invalid for a start without
//     backup_label, renamed to its own name, and its directory synced.
//
// online says that the backup was made while the server ran.
func (t *Target) Finish(ctx context.Context, online bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.written.Flush(); err != nil {
		return err
	}
	if err := t.data.remove(markerFile); err != nil {
		return err
	}
	if err := t.syncDirs(ctx); err != nil {
		return err
	}

	global, err := t.openDir(controlDir)
	if err != nil {
		return err
	}
	defer global.close()
	_, found, err := global.stat(controlTemp)
	if err != nil {
		return err
	}
	if !found {
		t.log.Warn("backup does not contain 'global/pg_control' -- cluster will not start")
		return t.syncDir(global, controlDir)
	}
	if online {
		if err := invalidate(global); err != nil {
			return err
		}
	}
	// The other names in global have to be there before pg_control gets its own.
	if err := global.sync(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	t.log.Info("restore global/pg_control (performed last to ensure aborted restores cannot be started)")
	if err := unix.Renameat(global.fd, controlTemp, global.fd, controlName); err != nil {
		return errs.New(errs.FileMove, "unable to move '%s' to '%s': %w",
			global.child(controlTemp), global.child(controlName), err)
	}
	return t.syncDir(global, controlDir)
}

// syncDirs syncs every directory but global, whose turn comes with pg_control.
func (t *Target) syncDirs(ctx context.Context) error {
	synced := map[string]bool{}
	for _, r := range t.roots {
		if r.File == "" || synced[r.Path] {
			continue
		}
		synced[r.Path] = true
		if err := t.syncPath(r.dir, r.Path); err != nil {
			return err
		}
	}
	for _, at := range t.layout.Dirs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if at.Name == "pg_tblspc" || at.Name == controlDir {
			continue
		}
		d, err := t.openDir(at.Name)
		if err != nil {
			return err
		}
		err = t.syncDir(d, at.Name)
		d.close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *Target) openDir(name string) (*dir, error) {
	at, rel, err := t.locate(name)
	if err != nil {
		return nil, err
	}
	return at.open(rel)
}

func (t *Target) syncDir(d *dir, name string) error { return t.syncPath(d, t.shown(name)) }

func (t *Target) syncPath(d *dir, shown string) error {
	t.detail("%s", fmt.Sprintf("sync path '%s'", shown))
	return d.sync()
}

// invalidate rewrites the waiting pg_control so that it needs backup_label to start.
func invalidate(global *dir) error {
	f, st, err := global.openFile(controlTemp, unix.O_RDONLY)
	if err != nil {
		return err
	}
	const limit = 64 << 10 // PostgreSQL's is 8192 bytes
	content, err := io.ReadAll(io.LimitReader(f, limit))
	_ = f.Close()
	if err != nil {
		return errs.WrapAs(errs.FileRead, err, "unable to read '%s'", global.child(controlTemp))
	}
	content, err = postgres.InvalidateControl(content)
	if err != nil {
		return errs.Wrap(err, "'global/pg_control' of the backup")
	}
	own := owner{uid: int(st.Uid), gid: int(st.Gid), set: unix.Geteuid() == 0}
	mtime := timespec(time.Unix(st.Mtim.Unix()))
	return global.writeFile(controlTemp, content, st.Mode&0o777, own, &mtime)
}
