package lock

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
)

// record is the content of a lock file. pgBackRest reads the keys in this order, and it
// reads szCplt without looking whether it is there when sz is.
type record struct {
	ExecID   string  `json:"execId"`
	Percent  *uint64 `json:"pctCplt,omitempty"` // percent * 100
	PID      int     `json:"pid"`
	Size     *uint64 `json:"sz,omitempty"`     // bytes
	Complete *uint64 `json:"szCplt,omitempty"` // bytes
}

const maxRecord = 4096 // ours and theirs are below 200 bytes

// readRecord reads the beginning of f, which need not belong to anybody friendly.
func readRecord(f io.ReaderAt) (record, error) {
	var r record
	err := json.NewDecoder(io.NewSectionReader(f, 0, maxRecord)).Decode(&r)
	if err == nil && r.PID <= 0 { // 0 and below are not processes to kill, they are groups
		err = errs.New(errs.FileInvalid, "lock file names process %d", r.PID)
	}
	if err != nil {
		return record{}, err
	}
	return r, nil
}

// writeRecord puts the record first and cuts what was longer afterwards, so that a
// reader in between finds a whole one.
func writeRecord(f *os.File, r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(b)))
}

// alive says whether the process of the record exists, as far as can be seen from here.
func (r record) alive() bool {
	return r.PID > 0 && syscall.Kill(r.PID, 0) != syscall.ESRCH
}

// Holder is the process that holds a lock and how far it says it is.
type Holder struct {
	File   string // path of the lock file
	PID    int
	ExecID string

	// Bytes to do and done; both 0 until they are known.
	Size, Complete uint64
}

// Held says whether the lock of this type and repository of the stanza is held. What
// cannot be opened or read is not held, as it is for pgBackRest. For OlderRelease only a
// pgBackRest of that age counts: what pgx holds is under the repository keys.
func (d Dir) Held(stanza string, typ Type, repo int) (Holder, bool) {
	if checkStanza(stanza) != nil {
		return Holder{}, false
	}
	h, state := look(filepath.Join(d.Path, fileName(stanza, typ, repo)))
	return h, state == held
}

type state int

const (
	missing state = iota
	unlocked
	unreadable
	held
)

// look tries the lock shared: that fails only where somebody has it exclusively, and
// does not disturb others who look.
func look(path string) (Holder, state) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Holder{}, missing
	}
	defer func() { _ = f.Close() }() // only read
	if flock(f, syscall.LOCK_SH) == nil {
		return Holder{}, unlocked
	}
	r, err := readRecord(f)
	if err != nil {
		return Holder{}, unreadable
	}
	h := Holder{File: path, PID: r.PID, ExecID: r.ExecID}
	if r.Size != nil && r.Complete != nil {
		h.Size, h.Complete = *r.Size, *r.Complete
	}
	return h, held
}

// Holders gives the holders of the locks of a stanza, or with "" of all, each process
// once, for stop --force. unread are lock files nobody can be named for: left by
// a dead process, or not readable.
func (d Dir) Holders(stanza string) (holders []Holder, unread []string, err error) {
	stanzas := ".+"
	if stanza != "" {
		stanzas = regexp.QuoteMeta(stanza)
	}
	name := regexp.MustCompile("^" + stanzas + "-(?:archive|backup|restore)(-[0-9]+)?\\.lock$")
	entries, err := os.ReadDir(d.Path) // sorted
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, durable.Wrap(errs.PathOpen, err, "unable to list file info for path '%s'", d.Path)
	}
	for _, e := range entries {
		parts := name.FindStringSubmatch(e.Name())
		if parts == nil {
			continue
		}
		path := filepath.Join(d.Path, e.Name())
		switch h, state := look(path); {
		case state == held && !slices.ContainsFunc(holders, func(o Holder) bool { return o.PID == h.PID }):
			holders = append(holders, h)
		case state == unreadable, state == unlocked && parts[1] != "":
			// An older file that is not locked exclusively may be shared by holders of newer ones.
			unread = append(unread, path)
		}
	}
	return holders, unread, nil
}
