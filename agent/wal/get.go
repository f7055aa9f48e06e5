package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// Get configures GetFile.
type Get struct {
	Archives []Archive // asked in this order
	PGPath   string

	// Strict lets "missing" count only when every archive said so. Without it one
	// that could be asked is enough, as in pgBackRest: PostgreSQL then takes an archive
	// that is out of reach for the end of all WAL, and promotes.
	Strict bool
	Log    *slog.Logger
}

// ErrMissing is what GetFile returns when no archive has the file.
var ErrMissing = errors.New("the file is not in the archive")

// found is a copy and the archive that has it.
type found struct {
	Archive
	Copy
}

// GetFile fetches a WAL file to target, which is absolute. What appears there is
// complete and of the checksum the archive has it under; on any error nothing does. A
// damaged copy is passed over for the next.
//
// ErrMissing is a fact about the archive. Not to be able to ask any archive is
// another error, as is a file that is there but cannot be read.
func GetFile(ctx context.Context, g Get, name, target string) error {
	w, err := g.wanted(ctx, name)
	if err != nil {
		return err
	}
	err = g.get(ctx, w, target)
	if errors.Is(err, ErrMissing) {
		g.Log.Info(fmt.Sprintf("unable to find %s in the archive", name))
	}
	return err
}

// wanted is a WAL file that PostgreSQL asked for.
type wanted struct {
	name    string
	wal     postgres.WALName
	cluster Cluster
	segment int64 // bytes of the cluster's segments
}

// size is how long the file must be, -1 if any length will do.
func (w wanted) size() int64 {
	if w.wal.Kind == postgres.Segment || w.wal.Kind == postgres.Partial {
		return w.segment
	}
	return -1
}

// wanted finds out for whom the file is, and whether that is a cluster to be given any.
func (g Get) wanted(ctx context.Context, name string) (wanted, error) {
	wal, err := postgres.ParseWALName(name)
	if err != nil {
		// PostgreSQL asks for what it needs by a name it made; whatever else it may ask
		// for one day, no archive has it.
		return wanted{}, errs.WithHint(err, "archive-get takes the name that PostgreSQL gives as %%f")
	}
	ctl, err := control(ctx, g.PGPath)
	if err != nil {
		return wanted{}, err
	}
	if postgres.ControlInvalidated(ctl) {
		if _, err := os.Lstat(filepath.Join(g.PGPath, "backup_label")); errors.Is(err, fs.ErrNotExist) {
			return wanted{}, errs.WithHint(errs.New(errs.Format, "pg_control from backup is not valid without backup_label"),
				"was the backup_label file removed?")
		}
	}
	return wanted{name, wal, Cluster{ctl.Version, ctl.SystemID}, ctl.WALSegmentSize}, nil
}

// get looks the file up and fetches it to target. It logs everything but ErrMissing.
func (g Get) get(ctx context.Context, w wanted, target string) error {
	copies, err := g.find(ctx, w.cluster, w.name)
	if err != nil {
		return err
	}
	from, failed, err := firstWhole(ctx, w.name, copies, func(c Copy) error { return fetch(ctx, c, w.size(), target) })
	if err != nil {
		return err
	}
	for _, line := range failed {
		g.Log.Warn(line)
	}
	g.Log.Info(from.says(w.name))
	return nil
}

// says is the message that a file was found there.
func (f found) says(name string) string {
	return fmt.Sprintf("found %s in the %s: %s archive", name, f.Name(), f.ArchiveID)
}

// firstWhole gives the first of the copies of a file that can be fetched, and what is wrong with
// those before it. ErrMissing is that there are none.
func firstWhole(ctx context.Context, name string, copies []found, fetch func(Copy) error) (from found, failed []string, err error) {
	if len(copies) == 0 {
		return found{}, nil, ErrMissing
	}
	damaged := true // all of them
	for _, f := range copies {
		err := fetch(f.Copy)
		if err == nil {
			return f, failed, nil
		}
		if ctx.Err() != nil {
			return found{}, nil, ctx.Err()
		}
		code := errs.CodeOf(err)
		damaged = damaged && (code == errs.Checksum || code == errs.Format)
		failed = append(failed, fmt.Sprintf("%s: %s [%s] %s", f.Name(), f.Path, code, err))
	}
	err = errs.New(errs.FileRead, "unable to get %s:\n%s", name, strings.Join(failed, "\n"))
	if damaged {
		err = errs.WithHint(err, "a server that still has the file in pg_wal can store it anew, with archive-push")
		err = errs.WithHint(err, "else recover to a moment before it (--type=time or lsn), or from a backup that began later")
	}
	return found{}, nil, err
}

// find asks every archive. That one cannot be asked is a warning as long as another
// answers; see Strict.
func (g Get) find(ctx context.Context, c Cluster, name string) ([]found, error) {
	var all []found
	var failed []string
	for _, a := range g.Archives {
		copies, err := a.Find(ctx, c, name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			line := inRepo(a, err)
			g.Log.Warn(line)
			failed = append(failed, line)
			continue
		}
		for _, f := range copies {
			all = append(all, found{a, f})
		}
	}
	if len(all) == 0 && len(failed) > 0 && (g.Strict || len(failed) == len(g.Archives)) {
		return nil, noRepo(failed)
	}
	var sums [][20]byte
	for _, f := range all {
		if f.SHA1 != nil && !slices.Contains(sums, *f.SHA1) {
			sums = append(sums, *f.SHA1)
		}
	}
	if len(sums) > 1 {
		return nil, duplicates(name, all)
	}
	return all, nil
}

// duplicates is the error when copies differ. They are listed by name, as pgBackRest does, so that
// those with the same content stand together.
func duplicates(name string, all []found) error {
	all = slices.SortedStableFunc(slices.Values(all), func(a, b found) int { return strings.Compare(a.Path, b.Path) })
	var list strings.Builder
	last := ""
	for _, f := range all {
		if f.Name() != last {
			fmt.Fprintf(&list, "\n%s: %s", f.Name(), f.Path)
		} else {
			list.WriteString(", " + f.Path)
		}
		last = f.Name()
	}
	return errs.WithHint(errs.New(errs.ArchiveDuplicate, "duplicates found for WAL segment %s:%s", name, &list),
		"are multiple primaries archiving to this stanza?")
}

// fetch copies to a name beside target and moves it there when it is whole. Not
// synced: PostgreSQL does that when it takes the file over.
func fetch(ctx context.Context, c Copy, size int64, target string) error {
	temp := fmt.Sprintf("%s.%d%s", target, os.Getpid(), tempSuffix)
	err := writeCopy(ctx, c, size, func() (*os.File, error) {
		removeStale(target)
		return os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	})
	if err == nil {
		err = errs.WrapAs(errs.FileMove, os.Rename(temp, target), "unable to put the WAL file into place")
	}
	if err != nil {
		os.Remove(temp)
	}
	return err
}

// writeCopy puts what is verified of c into the file that create opens once there is a copy to
// be read. On an error that file is of no use.
func writeCopy(ctx context.Context, c Copy, size int64, create func() (*os.File, error)) error {
	in, err := c.Open(ctx, size)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := create()
	if err != nil {
		return errs.WrapAs(errs.FileOpen, err, "unable to write the WAL file")
	}
	if _, err = io.Copy(out, in); err != nil {
		out.Close()
		if errs.CodeOf(err) == errs.Unknown {
			err = errs.WrapAs(errs.FileWrite, err, "unable to write the WAL file")
		}
		return err
	}
	return errs.WrapAs(errs.FileClose, out.Close(), "unable to write the WAL file")
}

// tempSuffix ends the name beside the target, behind the process id.
const tempSuffix = ".pgx.tmp"

// removeStale removes what processes that were killed left beside target: as large as a
// segment, and nobody else's to clean up.
func removeStale(target string) {
	left, err := filepath.Glob(target + ".*" + tempSuffix)
	if err != nil {
		return // a target with the characters of a pattern
	}
	for _, name := range left {
		pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(name, target+"."), tempSuffix))
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.Remove(name) // if it stays, it stays
		}
	}
}
