package wal

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

const readySuffix = ".ready"

// statusDir is where PostgreSQL notes which files of a WAL directory wait to be archived.
func statusDir(walDir string) string { return filepath.Join(walDir, "archive_status") }

// ready is what waits to be archived: names of WAL files in the order PostgreSQL asks
// for them, timelines' histories first and then by name.
type ready []string

// readReady lists what waits in the WAL directory.
func readReady(walDir string) (ready, error) {
	names, err := listNames(statusDir(walDir))
	if err != nil {
		return nil, errs.WrapAs(errs.PathOpen, err, "unable to list the WAL that waits to be archived")
	}
	var list ready
	for _, name := range names {
		if name, ok := strings.CutSuffix(name, readySuffix); ok {
			if _, err := postgres.ParseWALName(name); err == nil {
				list = append(list, name)
			}
		}
	}
	slices.SortFunc(list, inOrder)
	return list, nil
}

func inOrder(a, b string) int {
	switch first, second := isHistory(a), isHistory(b); {
	case first && !second:
		return -1
	case second && !first:
		return 1
	}
	return cmp.Compare(a, b)
}

func isHistory(name string) bool { return strings.HasSuffix(name, ".history") }

// isSegment says whether the name of a WAL file is that of a whole segment.
func isSegment(name string) bool { return !strings.Contains(name, ".") }

// bytes is how much WAL waits. As in pgBackRest the size of the first file stands for
// all; here it is the first segment, since a history file is next to nothing.
func (r ready) bytes(walDir string) (int64, error) {
	for _, segments := range []bool{true, false} {
		for _, name := range r {
			if isSegment(name) != segments {
				continue
			}
			info, err := os.Stat(filepath.Join(walDir, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue // archived and recycled in the meantime
			}
			if err != nil {
				return 0, errs.WrapAs(errs.FileInfo, err, "unable to get the size of a WAL file that waits to be archived")
			}
			return info.Size() * int64(len(r)), nil
		}
	}
	return 0, nil
}

// listNames gives the names in a directory in no order, and nothing else: there may be a
// hundred thousand.
func listNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// QueueState is how far archiving of a cluster is behind.
type QueueState struct {
	Waiting   int       // WAL files without acknowledgement
	Bytes     int64     // of them
	Oldest    string    // the one PostgreSQL asks for next
	Since     time.Time // when that became ready
	LastError string    // "[104] message" of the last try; empty when it is not known to have failed
}

// Queue looks at what waits in the WAL directory and has no answer in the spool, which need
// not exist.
func Queue(spool Spool, walDir string) (QueueState, error) {
	acknowledged, err := listNames(spool.Out())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return QueueState{}, errs.WrapAs(errs.PathOpen, err, "unable to list the spool")
	}
	waiting, err := readReady(walDir)
	if err != nil {
		return QueueState{}, err
	}
	done := make(map[string]bool, len(acknowledged))
	for _, name := range acknowledged {
		done[name] = true
	}
	waiting = slices.DeleteFunc(waiting, func(name string) bool { return done[name+okSuffix] })
	if len(waiting) == 0 {
		return QueueState{}, nil
	}
	q := QueueState{Waiting: len(waiting), Oldest: waiting[0]}
	if q.Bytes, err = waiting.bytes(walDir); err != nil {
		return QueueState{}, err
	}
	if info, err := os.Stat(filepath.Join(statusDir(walDir), q.Oldest+readySuffix)); err == nil {
		q.Since = info.ModTime()
	}
	for _, name := range []string{q.Oldest, globalStatus} {
		if s, ok, err := readStatus(spool.Out(), name+errorSuffix); ok && err == nil {
			q.LastError = s.failed()
			break
		}
	}
	return q, nil
}
