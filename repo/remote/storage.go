package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"iter"
	"path"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Storage is a repository on another host as RoleRestore or RoleAdmin sees it.
//
// It is no storage.Locker: a lock would have to live as long as a call of its own, and
// all that needs one is done by the archive service where the repository is.
type Storage struct {
	p        protocol.Caller
	host     string
	root     string
	cipher   bool
	features storage.Features
}

var _ storage.Storage = (*Storage)(nil)

// NewStorage asks the peer of p what it offers. host is what messages call it, such as
// "backup.example"; if it is "" they show paths only. To list or read while another
// listing or reader is open p must be a protocol.Pool, as it must be for several
// goroutines.
func NewStorage(ctx context.Context, p protocol.Caller, host string) (*Storage, error) {
	var d description
	if err := p.Call(ctx, "describe", nil, &d); err != nil {
		return nil, err
	}
	return &Storage{p: p, host: host, root: d.Path, cipher: d.Cipher,
		features: storage.Features{Dirs: d.Dirs, Links: d.Links, Versions: d.Versions}}, nil
}

// Path gives "backup.example:/var/lib/pgbackrest/backup/demo/backup.info".
func (s *Storage) Path(name string) string {
	if s.host == "" {
		return s.path(name)
	}
	return s.host + ":" + s.path(name)
}

// path is how the other host calls an object in its messages.
func (s *Storage) path(name string) string {
	if name == "" {
		return s.root
	}
	return strings.TrimSuffix(s.root, "/") + "/" + name
}

// Features is what the store there can do, without symbolic links: clients may not make any.
func (s *Storage) Features() storage.Features { return s.features }

// Encrypted says whether the repository is encrypted. Its info files are not for who is
// here, see StorageService.
func (s *Storage) Encrypted() bool { return s.cipher }

// check is what every method does first. dirOK is for names that may be "".
func (s *Storage) check(ctx context.Context, object string, dirOK bool) error {
	if err := ctx.Err(); err != nil {
		return s.fail(ctx, err, object)
	}
	if dirOK && object == "" {
		return nil
	}
	return valid(object)
}

// fail names the object in an error that does not: one of the connection, or of what was to
// be stored.
func (s *Storage) fail(ctx context.Context, err error, object string) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if strings.Contains(err.Error(), s.path(object)) {
		return err
	}
	return errs.Wrap(err, "unable to access '%s'", s.Path(object))
}

// Put sends what src gives. If it cannot be sent to its end, nothing appears.
func (s *Storage) Put(ctx context.Context, object string, src io.Reader, how storage.Write) error {
	if err := s.check(ctx, object, false); err != nil {
		return err
	}
	err := s.p.Send(ctx, "put", putArgs{Name: object, How: writes[how]}, until{ctx.Err, src}, nil)
	return s.fail(ctx, err, object)
}

// Open reads an object or a part of it, in one round trip if it is small.
func (s *Storage) Open(ctx context.Context, object string, at storage.Range) (io.ReadCloser, error) {
	if err := s.check(ctx, object, false); err != nil {
		return nil, err
	}
	if at.Offset < 0 || at.Length < 0 {
		return nil, errs.New(errs.ParamInvalid, "range %d+%d of '%s': %w", at.Offset, at.Length, s.Path(object), fs.ErrInvalid)
	}
	in, err := s.p.Receive(ctx, "open", openArgs{Name: object, Offset: at.Offset, Length: at.Length, Version: at.Version})
	if err != nil {
		return nil, s.fail(ctx, err, object)
	}
	return &reader{Stream: in, fail: func(err error) error { return s.fail(ctx, err, object) }, ended: ctx.Err}, nil
}

// reader is an object that is being read.
type reader struct {
	*protocol.Stream
	fail  func(error) error
	ended func() error
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ended(); err != nil { // though there may be something left that has come before
		return 0, r.fail(err)
	}
	n, err := r.Stream.Read(p)
	if err != nil && err != io.EOF {
		err = r.fail(err)
	}
	return n, err
}

func (r *reader) WriteTo(w io.Writer) (int64, error) {
	n, err := r.Stream.WriteTo(w)
	return n, r.fail(err)
}

// Stat describes what is under a name.
func (s *Storage) Stat(ctx context.Context, object string) (storage.Object, error) {
	if err := s.check(ctx, object, false); err != nil {
		return storage.Object{}, err
	}
	o, err := s.stat(ctx, object)
	return o, s.fail(ctx, err, object)
}

func (s *Storage) stat(ctx context.Context, named string) (storage.Object, error) {
	var o object
	if err := s.p.Call(ctx, "stat", nameArgs{named}, &o); err != nil {
		return storage.Object{}, err
	}
	return o.unpack(named)
}

// maxLine bounds an object in a listing, in bytes: the longest path there can be, and the
// longest target, with each byte escaped.
const maxLine = 64 << 10

// List gives what is listed as it comes.
func (s *Storage) List(ctx context.Context, prefix string, what storage.Listing) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := s.list(ctx, prefix, what, yield); err != nil && err != errStop {
			yield(storage.Object{}, err)
		}
	}
}

var errStop = errors.New("the caller has seen enough")

func (s *Storage) list(ctx context.Context, prefix string, what storage.Listing, yield func(storage.Object, error) bool) error {
	if err := s.check(ctx, prefix, true); err != nil {
		return err
	}
	args := listArgs{Prefix: prefix, Recurse: what.Recurse, NamesOnly: what.NamesOnly, Unfinished: what.Unfinished, At: what.At}
	for _, t := range what.Only {
		args.Only = append(args.Only, types[t])
	}
	in, err := s.p.Receive(ctx, "list", args)
	if err != nil {
		return s.fail(ctx, err, prefix)
	}
	defer func() { _ = in.Close() }() // only read
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		o, err := decodeLine(prefix, lines.Bytes())
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return s.fail(ctx, err, prefix)
		}
		if !yield(o, nil) {
			return errStop
		}
	}
	err = lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		err = errs.New(errs.Protocol, "an object in the listing takes more than %d bytes", maxLine)
	}
	return s.fail(ctx, err, prefix)
}

// decodeLine reads an object of a listing. Its name is below what was listed, whatever
// the other side says.
func decodeLine(prefix string, line []byte) (storage.Object, error) {
	var o object
	if err := json.Unmarshal(line, &o); err != nil {
		return storage.Object{}, errs.New(errs.Protocol, "the listing cannot be read: %w", err)
	}
	if err := valid(o.Name); err != nil {
		return storage.Object{}, errs.New(errs.Protocol, "the listing cannot be true: %w", err)
	}
	return o.unpack(path.Join(prefix, o.Name))
}

// maxNames bounds the names sent in one call to remove them, in bytes; a request of the
// protocol has 1 MiB, and a byte takes six of it at most.
const maxNames = 128 << 10

// Remove sends many names at once.
func (s *Storage) Remove(ctx context.Context, objects ...string) error {
	var args namesArgs
	size := 0
	send := func() error {
		if len(args.Names) == 0 {
			return nil
		}
		err := s.p.Call(ctx, "remove", args, nil)
		args.Names, size = nil, 0
		return err
	}
	for _, object := range objects {
		if err := s.check(ctx, object, false); err != nil {
			return err
		}
		// With what JSON puts around it.
		if size += len(object) + 16; size > maxNames {
			if err := send(); err != nil {
				return s.fail(ctx, err, object)
			}
		}
		args.Names = append(args.Names, object)
	}
	err := send()
	if err != nil && len(objects) > 0 {
		return s.fail(ctx, err, objects[len(objects)-1])
	}
	return err
}

// RemoveAll removes a directory with all that is in it.
func (s *Storage) RemoveAll(ctx context.Context, object string) error {
	return s.call(ctx, "remove-all", object)
}

// MakeDir makes a directory and those above it.
func (s *Storage) MakeDir(ctx context.Context, object string) error {
	return s.call(ctx, "make-dir", object)
}

// Sync makes durable what is below a name. That of the whole repository is refused there.
func (s *Storage) Sync(ctx context.Context, object string) error {
	if err := s.check(ctx, object, true); err != nil {
		return err
	}
	return s.fail(ctx, s.p.Call(ctx, "sync", nameArgs{object}, nil), object)
}

func (s *Storage) call(ctx context.Context, call, object string) error {
	if err := s.check(ctx, object, false); err != nil {
		return err
	}
	return s.fail(ctx, s.p.Call(ctx, call, nameArgs{object}, nil), object)
}

// Link gives an object a further name.
func (s *Storage) Link(ctx context.Context, old, object string) error {
	if err := errors.Join(s.check(ctx, old, false), s.check(ctx, object, false)); err != nil {
		return err
	}
	return s.fail(ctx, s.p.Call(ctx, "link", linkArgs{old, object}, nil), object)
}

// Symlink is never possible, see Features.
func (s *Storage) Symlink(ctx context.Context, _, object string) error {
	if err := s.check(ctx, object, false); err != nil {
		return err
	}
	return errs.New(errs.FeatureNotSupported, "'%s' cannot be made a symbolic link from another host: %w", s.Path(object), errors.ErrUnsupported)
}
