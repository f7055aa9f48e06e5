package wal

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/internal/spare"
)

// Push configures how WAL files are pushed.
type Push struct {
	Archives []Archive // the file must reach each of them; not used by PushWorker
	PGPath   string    // data directory; empty when it is not known here

	SHA1        bool   // an archive is going to need it, as those on this host do: compute it while the file is read
	HeaderCheck bool   // compare the segment's header with the stanza
	ModeCheck   bool   // say so when the segment is in the archive already
	QueueMax    *int64 // bytes that may wait before WAL is dropped; nil: never drop
	Ledger      Ledger // of what is dropped; where it has a path Now is needed

	// SizeText writes a number of bytes for people.
	SizeText func(int64) string
	Log      *slog.Logger
	Now      func() time.Time // for records only
}

// PushFile stores the WAL file at path, which is absolute, in all archives. It returns
// nil when every one of them has it durably, or when the queue was too long and the
// file was dropped, which the log then says. A repository that fails does not keep
// the others from getting the file.
func PushFile(ctx context.Context, p Push, path string) error {
	name := filepath.Base(path)
	wal, err := postgres.ParseWALName(name)
	if err != nil {
		return errs.WithHint(err, "archive-push takes the path that PostgreSQL gives as %%p")
	}
	if p.QueueMax != nil && wal.Kind != postgres.History {
		if drop, err := p.drop(path); drop || err != nil {
			return err
		}
	}

	cluster, archives, failed, err := p.check(ctx)
	if err != nil {
		return err
	}
	f, err := p.open(path, wal, cluster)
	if err != nil {
		return err
	}
	defer f.release()
	for _, a := range archives {
		warning, err := p.put(ctx, a, f.File)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errs.CodeOf(err) == errs.ArchiveDuplicate:
			// Split brain or damage: not something to go on after.
			return err
		case err != nil:
			failed = append(failed, inRepo(a, err))
		case warning != "":
			p.Log.Warn(warning)
		}
	}
	if len(failed) > 0 {
		return notEverywhere(failed)
	}
	p.Log.Info(fmt.Sprintf("pushed WAL file '%s' to the archive", name))
	return nil
}

// notEverywhere is the error when repositories did not take a file, one line for each.
func notEverywhere(lines []string) error {
	return errs.New(errs.Command, "archive-push command encountered error(s):\n%s", strings.Join(lines, "\n"))
}

// drop says whether the file at path is dropped because too much waits.
func (p Push) drop(path string) (bool, error) {
	dir, name := filepath.Split(path)
	waiting, err := readReady(dir)
	if err != nil {
		return false, err
	}
	queue, err := waiting.bytes(dir)
	if err != nil || queue <= *p.QueueMax {
		return false, err
	}
	// What is configured is that PostgreSQL goes on. Here that does not depend on a spool, which
	// only the asynchronous push needs.
	if p.Ledger.Path != "" {
		if err := p.Ledger.Record(Drop{From: name, To: name, At: p.Now(), Queue: queue, Limit: *p.QueueMax}); err != nil {
			p.Log.Warn(err.Error())
		}
	}
	p.Log.Warn(p.dropWarning(name))
	return true, nil
}

func (p Push) dropWarning(name string) string {
	return fmt.Sprintf("dropped WAL file '%s' because archive queue exceeded %s", name, p.SizeText(*p.QueueMax))
}

// opened is a WAL file to be stored, with the memory a segment is in until release.
type opened struct {
	File
	buf *[]byte
}

// segments holds what segments are read into. What is new is expensive: its pages have to
// come from the kernel.
var segments spare.List[*[]byte]

func (o *opened) release() {
	if o.buf != nil {
		segments.Put(o.buf)
		o.buf, o.Open = nil, nil
	}
}

// open gives a WAL file of the cluster to be stored. A segment is read.
func (p Push) open(path string, wal postgres.WALName, c Cluster) (*opened, error) {
	f := &opened{File: File{Name: filepath.Base(path), Open: func() (io.ReadCloser, error) {
		in, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errs.New(errs.FileMissing, "unable to open missing file '%s' for read", path)
		}
		return in, errs.WrapAs(errs.FileOpen, err, "unable to open WAL file")
	}}}
	if wal.Kind == postgres.Segment || wal.Kind == postgres.Partial {
		if err := p.inspect(f, path, c); err != nil {
			f.release()
			return nil, err
		}
	}
	return f, nil
}

// put stores a file in an archive, which may be something to warn of.
func (p Push) put(ctx context.Context, a Archive, f File) (warning string, err error) {
	stored, err := a.Put(ctx, f)
	switch {
	case err != nil:
		return "", err
	case stored == Repaired:
		return fmt.Sprintf("WAL file '%s' in the %s archive was damaged and has been stored again", f.Name, a.Name()) +
			"\nHINT: check the file system of the repository, and run verify to look for further damage.", nil
	case stored == Present && p.ModeCheck && f.SHA1 != nil:
		return fmt.Sprintf("WAL file '%s' already exists in the %s archive with the same checksum", f.Name, a.Name()) +
			"\nHINT: this is valid in some recovery scenarios but may also indicate a problem.", nil
	}
	return "", nil
}

// server is how messages call the cluster as its data directory tells it.
const server = "PostgreSQL"

// check finds the archives that take WAL of this cluster. Those that do not, or
// cannot be read, are lines of failed; none left is the error.
func (p Push) check(ctx context.Context) (c Cluster, usable []Archive, failed []string, err error) {
	known := ""
	if p.PGPath != "" {
		ctl, err := control(ctx, p.PGPath)
		if err != nil {
			return c, nil, nil, err
		}
		c, known = Cluster{ctl.Version, ctl.SystemID}, server
	}
	for _, a := range p.Archives {
		stanza, err := a.Cluster(ctx)
		if err == nil && known != "" {
			err = agree(known, c, a.Name(), stanza)
		}
		if err != nil {
			if ctx.Err() != nil {
				return c, nil, nil, ctx.Err()
			}
			failed = append(failed, inRepo(a, err))
			continue
		}
		if known == "" {
			c, known = stanza, a.Name()+" stanza"
		}
		usable = append(usable, a)
	}
	if len(usable) == 0 {
		return c, nil, nil, noRepo(failed)
	}
	return c, usable, failed, nil
}

// agree is the error when the stanza in a repository is not of the cluster c, known from
// elsewhere.
func agree(known string, c Cluster, repo string, stanza Cluster) error {
	if stanza == c {
		return nil
	}
	return errs.WithHint(errs.New(errs.ArchiveMismatch,
		"%s version %s, system-id %d do not match %s stanza version %s, system-id %d",
		known, c.Version, c.SystemID, repo, stanza.Version, stanza.SystemID),
		"are you archiving to the correct stanza?")
}

// keepInMemory is how large a segment may be, in bytes, to be read only once. Of a larger
// one the content is read again to be stored.
const (
	keepInMemory = 64 << 20
	readSize     = 256 << 10
)

// inspect reads a segment: its header is that of the cluster's WAL, and its checksums say ever after what it was.
func (p Push) inspect(f *opened, path string, c Cluster) error {
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	size := int64(keepInMemory)
	if info, err := os.Stat(path); err == nil {
		size = min(size, info.Size())
	}
	f.take(int(size))
	content := *f.buf
	sum := xxh3.New()
	var into io.Writer = sum
	var named hash.Hash
	if p.SHA1 {
		named = sha1.New()
		into = io.MultiWriter(sum, named)
	}
	// In pieces, so that each is hashed while it is in the cache, and the runtime gets a
	// word in between.
	read := 0
	for read < len(content) {
		n, err := io.ReadFull(in, content[read:min(read+readSize, len(content))])
		_, _ = into.Write(content[read : read+n]) // never fails
		if read += n; err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return errs.WrapAs(errs.FileRead, err, "read '%s'", path)
		}
	}
	content = content[:read]
	if err := p.checkHeader(content, path, c); err != nil {
		return err
	}
	more, err := io.Copy(into, in)
	if err != nil {
		return errs.WrapAs(errs.FileRead, err, "read '%s'", path)
	}
	f.Sum = sum.Sum128().Bytes()
	if more == 0 {
		f.Fixed = true
		f.Open = func() (io.ReadCloser, error) { return memory{bytes.NewBuffer(content)}, nil }
	}
	f.SHA1 = f.hash
	if named != nil {
		name := [20]byte(named.Sum(nil))
		f.SHA1 = func() ([20]byte, error) { return name, nil }
	}
	return nil
}

// hash reads the content once more for its SHA-1.
func (o *opened) hash() (sum [20]byte, err error) {
	in, err := o.Open()
	if err != nil {
		return sum, err
	}
	defer in.Close()
	h := sha1.New()
	if _, err := io.Copy(h, in); err != nil {
		return sum, errs.WrapAs(errs.FileRead, err, "read WAL file '%s'", o.Name)
	}
	return [20]byte(h.Sum(nil)), nil
}

// take gets memory for size bytes.
func (o *opened) take(size int) {
	o.buf, _ = segments.Take()
	if o.buf == nil || cap(*o.buf) < size {
		b := make([]byte, size)
		o.buf = &b
	}
	*o.buf = (*o.buf)[:size]
}

// memory is the content of a segment. A pipeline takes a Buffer's without copying it.
type memory struct{ *bytes.Buffer }

func (memory) Close() error { return nil }

// checkHeader compares the beginning of a segment with the stanza.
func (p Push) checkHeader(head []byte, path string, c Cluster) error {
	if !p.HeaderCheck {
		return nil
	}
	h, err := postgres.ParseWALHeader(head[:min(len(head), postgres.WALHeaderSize)])
	if err != nil {
		return errs.Wrap(err, "WAL file '%s'", path)
	}
	if h.Version != c.Version || h.SystemID != c.SystemID {
		return errs.New(errs.ArchiveMismatch,
			"WAL file '%s' version %s, system-id %d do not match stanza version %s, system-id %d",
			path, h.Version, h.SystemID, c.Version, c.SystemID)
	}
	return nil
}
