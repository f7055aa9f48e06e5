package wal

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
)

// Drop is a run of consecutive WAL files that were acknowledged without being stored, since
// more waited than archive-push-queue-max allows: a hole in the archive.
type Drop struct {
	From  string    `json:"from"` // first and
	To    string    `json:"to"`   // last file of the run
	At    time.Time `json:"at"`
	Queue int64     `json:"queue"` // bytes that waited then
	Limit int64     `json:"limit"` // bytes that may
}

// Ledger is the file that names every hole, one JSON object on a line. It lies beside the
// spool of its stanza, not in it, where nothing is kept for long. A run that was recorded
// by a process that died before PostgreSQL was told is recorded again by the next, so runs may
// overlap.
type Ledger struct {
	Path string // SPOOL/archive/STANZA.dropped; empty records nothing
}

// Record adds runs durably. It is called before PostgreSQL is told to go on.
func (l Ledger) Record(drops ...Drop) (err error) {
	if l.Path == "" || len(drops) == 0 {
		return nil
	}
	defer func() {
		err = durable.Wrap(errs.FileWrite, err, "unable to record dropped WAL in '%s'", l.Path)
	}()
	var lines bytes.Buffer
	for _, d := range drops {
		d.At = d.At.Truncate(time.Second)
		line, err := json.Marshal(d)
		if err != nil {
			return err
		}
		lines.Write(append(line, '\n'))
	}
	if err := durable.MkdirPath(filepath.Dir(l.Path), spoolDirMode); err != nil {
		return err
	}
	f, err := os.OpenFile(l.Path, os.O_RDWR|os.O_CREATE, spoolFileMode)
	if err != nil {
		return err
	}
	defer f.Close() // synced
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	content, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	// Behind the last whole line: what follows it was never acted on.
	end := int64(bytes.LastIndexByte(content, '\n') + 1)
	if _, err := f.WriteAt(lines.Bytes(), end); err != nil {
		_ = f.Truncate(end) // else it is an unfinished line, which is none
		return err
	}
	if err := f.Truncate(end + int64(lines.Len())); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	dir, err := os.OpenRoot(filepath.Dir(l.Path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return durable.SyncDir(dir, ".")
}

// Drops gives the runs in the order they were recorded. Without a file there are none.
// Next to an error are the runs that can be read.
func (l Ledger) Drops() ([]Drop, error) {
	content, err := os.ReadFile(l.Path)
	if l.Path == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, durable.Wrap(errs.FileRead, err, "unable to read '%s'", l.Path)
	}
	var all []Drop
	for number := 1; ; number++ {
		line, rest, whole := bytes.Cut(content, []byte{'\n'})
		if !whole {
			return all, err
		}
		content = rest
		var d Drop
		if jerr := json.Unmarshal(line, &d); jerr != nil || d.From == "" || d.To == "" {
			err = errs.New(errs.Format, "line %d of '%s' is not a record of dropped WAL", number, l.Path)
			continue
		}
		all = append(all, d)
	}
}
