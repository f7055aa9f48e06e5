package repo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage"
)

// A WALSource is a WAL file on its way into the archive.
type WALSource struct {
	Name string
	// Open gives the content from its start; it is called again when the content is
	// needed a second time.
	Open func() (io.ReadCloser, error)
	// SHA1 gives that of the content, and Sum is its XXH3, 128 bits, big endian. Only segments and partial ones
	// need them.
	SHA1 func() ([20]byte, error)
	Sum  [16]byte
	// Fixed says that Open cannot give other content than these were made of, as when it is in
	// memory. Else the content is hashed again while it is stored.
	Fixed bool

	Compress compress.Type
	Level    int
}

// Outcome says what PutWAL did.
type Outcome int

// What PutWAL can have done. In each case but the last the archive holds the file durably.
const (
	Stored   Outcome = iota
	Present          // the same content was there
	Repaired         // it was there, damaged, and has been stored again
	Unnamed          // of TakeWAL only: nothing, the SHA-1 has to be told
)

// PutWAL stores a WAL file under the directory id. It returns once the file is
// durable under its final name. A name is never given other content: what is there
// with the same content is success, with other content ArchiveDuplicate. So it is for two
// callers that store the same segment at once, where the storage is a storage.Locker.
func (r *Repo) PutWAL(ctx context.Context, id format.ArchiveID, src WALSource) (Outcome, error) {
	wal, err := postgres.ParseWALName(src.Name)
	if err != nil {
		return 0, err
	}
	if wal.Kind != postgres.Segment && wal.Kind != postgres.Partial {
		return r.putPlain(ctx, id, src)
	}
	pass, err := r.ArchivePass(ctx)
	if err != nil {
		return 0, err
	}
	sum, err := src.SHA1()
	if err != nil {
		return 0, err
	}
	return r.putSegment(ctx, claim{id, src.Name, &sum, src.Compress}, func() (content, error) {
		in, err := src.Open()
		if err != nil {
			return nil, err
		}
		spec := pipeline.StoreSpec{Compress: src.Compress, Level: src.Level, Cipher: pass, Limit: -1}
		if src.Fixed {
			spec.SHA1 = &sum
		}
		out, err := pipeline.NewStore(in, spec)
		if err != nil {
			return nil, errors.Join(err, in.Close())
		}
		return &reading{Store: out, name: src.Name, sha1: sum, in: in}, nil
	})
}

// claim is what a segment is said to be.
type claim struct {
	id    format.ArchiveID
	name  string
	sha1  *[20]byte // nil: what the content has, when it has come
	codec compress.Type
}

// content is a segment as it is to be stored.
type content interface {
	io.ReadCloser
	// Verify is asked after io.EOF: was it what is claimed? It gives the SHA-1 of the content.
	Verify() ([20]byte, error)
}

// reading is a WALSource that is being stored.
type reading struct {
	*pipeline.Store
	name string
	sha1 [20]byte
	in   io.Closer
}

func (s *reading) Verify() ([20]byte, error) {
	read := s.Result().SHA1
	if read != s.sha1 {
		return read, errs.New(errs.Checksum, "WAL file '%s' changed while it was read: checksum was %x, is %x", s.name, s.sha1, read)
	}
	return read, nil
}

func (s *reading) Close() error { return errors.Join(s.Store.Close(), s.in.Close()) }

// putSegment stores a segment or partial segment, which is opened only if it is needed.
func (r *Repo) putSegment(ctx context.Context, c claim, open func() (content, error)) (Outcome, error) {
	there, err := r.findIn(ctx, c.id, c.name)
	if err != nil {
		return 0, err
	}
	namer, late := r.storage.(storage.Namer)
	if c.sha1 == nil && (len(there) > 0 || !late) {
		return Unnamed, nil
	}
	outcome, err := r.compare(ctx, c, there)
	if err != nil || outcome == Present {
		return outcome, err
	}
	in, err := open()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	about := format.ArchivePath(r.stanza, c.id, c.name)
	object := func() string {
		return format.ArchivePath(r.stanza, c.id, format.SegmentFile(c.name, *c.sha1, c.codec.Ext()))
	}
	named := c.sha1 != nil
	a := &arrival{content: in, look: func(sum [20]byte) error {
		c.sha1 = &sum
		return r.lastLook(ctx, c, there)
	}}
	if l, ok := r.storage.(storage.Locker); ok {
		a.lock = func() (func() error, error) { return l.Lock(ctx, path.Dir(about)) }
	}
	if named {
		err = r.storage.Put(ctx, object(), a, storage.Atomic)
	} else {
		err = namer.PutNamed(ctx, about, a, object)
	}
	err = errors.Join(err, a.done())
	if errors.Is(err, errArrived) {
		if there, err = r.findIn(ctx, c.id, c.name); err != nil {
			return 0, err
		}
		if outcome, err = r.compare(ctx, c, there); err == nil && outcome != Present {
			// Gone again, or damaged. Ours is not stored: only the next try may say so.
			err = errs.New(errs.FileInvalid, "WAL file '%s' came into the %s archive from elsewhere and is gone or damaged",
				c.name, r.Name())
		}
		return outcome, err
	}
	if err != nil {
		return 0, err
	}
	for _, f := range there { // damaged ones under another name
		if f.Object != object() {
			if err := r.storage.Remove(ctx, f.Object); err != nil {
				return 0, err
			}
		}
	}
	return outcome, nil
}

// compare says what storing c means in view of what is there: Stored that nothing is,
// Repaired that only damaged copies are.
func (r *Repo) compare(ctx context.Context, c claim, there []WALFile) (Outcome, error) {
	outcome := Stored
	for _, f := range there {
		if *f.SHA1 != *c.sha1 {
			return 0, r.duplicate(c.name)
		}
		// The writer of this file may have died before the directory was synced, and
		// PostgreSQL removes its copy when we say yes.
		err := r.VerifyWAL(ctx, f)
		if err == nil {
			return Present, r.storage.Sync(ctx, path.Dir(f.Object))
		}
		if code := errs.CodeOf(err); code != errs.Checksum && code != errs.Format && code != errs.Crypto {
			return 0, err
		}
		outcome = Repaired
	}
	return outcome, nil
}

// errArrived is that another process has stored the same content meanwhile.
var errArrived = errors.New("the segment has arrived in the archive meanwhile")

// lastLook is taken under the lock, just before a segment gets its name: has nothing come
// since there was seen?
func (r *Repo) lastLook(ctx context.Context, c claim, there []WALFile) error {
	now, err := r.findIn(ctx, c.id, c.name)
	if err != nil {
		return err
	}
	for _, f := range now {
		if *f.SHA1 != *c.sha1 {
			return r.duplicate(c.name)
		}
		if !slices.ContainsFunc(there, func(old WALFile) bool { return old.Object == f.Object }) {
			return errArrived
		}
	}
	return nil
}

// arrival is a segment on its way into the storage. All of it is there and verified before
// the lock is taken, which is held from the end of the content until done.
type arrival struct {
	content
	lock   func() (unlock func() error, err error) // nil: there is none to be had
	look   func(sum [20]byte) error
	unlock func() error
	ended  bool
	bad    error
}

func (a *arrival) Read(p []byte) (int, error) {
	n, err := a.content.Read(p)
	if err == io.EOF {
		if bad := a.end(); bad != nil {
			return n, bad
		}
	}
	return n, err
}

func (a *arrival) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, a.content) // as the content or w can do best
	if err == nil {
		err = a.end()
	}
	return n, err
}

func (a *arrival) end() error {
	if a.ended {
		return a.bad
	}
	a.ended = true
	var sum [20]byte
	if sum, a.bad = a.Verify(); a.bad != nil {
		return a.bad
	}
	if a.lock != nil {
		if a.unlock, a.bad = a.lock(); a.bad != nil {
			return a.bad
		}
	}
	a.bad = a.look(sum)
	return a.bad
}

// done gives the lock back.
func (a *arrival) done() error {
	if a.unlock == nil {
		return nil
	}
	return a.unlock()
}

func (r *Repo) duplicate(name string) error {
	return errs.New(errs.ArchiveDuplicate,
		"WAL file '%s' already exists in the %s archive with a different checksum", name, r.Name())
}

// putPlain stores a history or backup history file: not compressed, under its own name.
func (r *Repo) putPlain(ctx context.Context, id format.ArchiveID, src WALSource) (Outcome, error) {
	in, err := src.Open()
	if err != nil {
		return 0, err
	}
	content, err := readPlain(in, src.Name)
	if err := errors.Join(err, in.Close()); err != nil {
		return 0, err
	}
	return r.putText(ctx, id, src.Name, content)
}

// readPlain reads all of a history or backup history file.
func readPlain(in io.Reader, name string) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(in, maxPlain+1))
	if err != nil {
		return nil, errs.WrapAs(errs.FileRead, err, "read '%s'", name)
	}
	if len(content) > maxPlain {
		return nil, errs.New(errs.FileInvalid, "'%s' is larger than %d bytes: not a history file", name, maxPlain)
	}
	return content, nil
}

func (r *Repo) putText(ctx context.Context, id format.ArchiveID, name string, content []byte) (Outcome, error) {
	pass, err := r.ArchivePass(ctx)
	if err != nil {
		return 0, err
	}
	object := format.ArchivePath(r.stanza, id, name)
	err = r.storage.Put(ctx, object, bytes.NewReader(cipher.Seal(pass, content)), storage.Exclusive)
	if !errors.Is(err, fs.ErrExist) {
		return Stored, err
	}
	there, err := r.decrypt(ctx, object, pass)
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(there, content) {
		return 0, r.duplicate(name)
	}
	return Present, r.storage.Sync(ctx, path.Dir(object))
}

// maxPlain bounds what is taken for a history file: a timeline is a line of it.
const maxPlain = 16 << 20
