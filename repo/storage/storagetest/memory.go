// Package storagetest holds the contract of storage.Storage as a test suite, a store
// in memory of which only what was made durable survives a crash, and a way to run
// an operation with each of its storage calls going wrong in turn.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Memory is a store in memory that promises exactly what storage.Storage does and
// no more: what was not Put as Atomic or Exclusive and not covered by a Sync is gone after
// Crash, and what was removed without a Sync is back. The idea is that of
// cockroachdb/pebble's vfs.NewCrashableMem.
//
// Make one with NewMemory.
type Memory struct {
	now func() time.Time

	mu      sync.Mutex
	live    map[string]entry
	durable map[string]entry
}

// entry is never changed once it is in a map, so that maps can share it.
type entry struct {
	typ     storage.Type
	content []byte
	target  string
	modTime time.Time
}

var _ storage.Storage = (*Memory)(nil)

// NewMemory makes an empty store that takes modification times from now.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, live: map[string]entry{}, durable: map[string]entry{}}
}

// Crash gives the store as it is after the machine died at this moment. The old one can
// still be used, by what does not know yet that it is dead.
func (m *Memory) Crash() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Memory{now: m.now, live: maps.Clone(m.durable), durable: maps.Clone(m.durable)}
}

// Path gives "memory:/name".
func (m *Memory) Path(name string) string { return "memory:" + path.Join("/", name) }

// Features: as a file system.
func (m *Memory) Features() storage.Features {
	return storage.Features{Dirs: true, Symlinks: true, Links: true}
}

func (m *Memory) check(ctx context.Context, name string, dirOK bool) error {
	if err := ctx.Err(); err != nil {
		return errs.Wrap(err, "unable to access '%s'", m.Path(name))
	}
	if dirOK && name == "" || name != "." && fs.ValidPath(name) {
		return nil
	}
	return m.fail(errs.ParamInvalid, fs.ErrInvalid, name)
}

func (m *Memory) fail(code errs.Code, err error, name string) error {
	return errs.WrapAs(code, err, "'%s'", m.Path(name))
}

// Put stores an object. A Staged one that is not finished is there in part.
func (m *Memory) Put(ctx context.Context, name string, src io.Reader, how storage.Write) error {
	if err := m.check(ctx, name, false); err != nil {
		return err
	}
	var content bytes.Buffer
	_, err := io.Copy(&content, src)
	if err == nil {
		err = ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil || how == storage.Staged {
		if derr := m.makeDir(path.Dir(name)); derr != nil {
			return derr
		}
		old, found := m.live[name]
		switch {
		case found && how == storage.Exclusive && err == nil:
			return m.fail(errs.FileExists, fs.ErrExist, name)
		case found && old.typ == storage.Dir:
			return m.fail(errs.FileOpen, errIsDir, name)
		}
		m.live[name] = entry{typ: storage.File, content: content.Bytes(), modTime: m.now()}
	}
	if err != nil {
		return errs.Wrap(err, "unable to store '%s'", m.Path(name))
	}
	if how != storage.Staged {
		m.keep(name)
	}
	return nil
}

// PutNamed stores an object whose name is known at its end.
func (m *Memory) PutNamed(ctx context.Context, about string, src io.Reader, name func() string) error {
	var content bytes.Buffer
	if _, err := io.Copy(&content, src); err != nil {
		return errs.Wrap(err, "unable to store '%s'", m.Path(about))
	}
	return m.Put(ctx, name(), &content, storage.Atomic)
}

var (
	errIsDir    = errors.New("is a directory")
	errNotDir   = errors.New("not a directory")
	errNotEmpty = errors.New("directory not empty")
	errNotLink  = errors.New("not a link")
)

// keep makes name and the directories above it durable.
func (m *Memory) keep(name string) {
	for ; name != "."; name = path.Dir(name) {
		m.durable[name] = m.live[name]
	}
}

// Open reads an object as it is now.
func (m *Memory) Open(ctx context.Context, name string, at storage.Range) (io.ReadCloser, error) {
	if err := m.check(ctx, name, false); err != nil {
		return nil, err
	}
	switch {
	case at.Version != "":
		return nil, m.fail(errs.FeatureNotSupported, errors.ErrUnsupported, name)
	case at.Offset < 0 || at.Length < 0:
		return nil, m.fail(errs.ParamInvalid, fs.ErrInvalid, name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, found := m.live[name]
	switch {
	case !found:
		return nil, m.fail(errs.FileMissing, fs.ErrNotExist, name)
	case e.typ == storage.Dir:
		return nil, m.fail(errs.FileOpen, errIsDir, name)
	case e.typ == storage.Link:
		if e, found = m.live[path.Join(path.Dir(name), e.target)]; !found || e.typ != storage.File {
			return nil, m.fail(errs.FileMissing, fs.ErrNotExist, name)
		}
	}
	content := e.content[min(at.Offset, int64(len(e.content))):]
	if at.Length > 0 {
		content = content[:min(at.Length, int64(len(content)))]
	}
	return &reader{ended: ctx.Err, from: bytes.NewReader(content)}, nil
}

type reader struct {
	ended func() error
	from  io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ended(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}

func (r *reader) Close() error { return nil }

// Stat describes what is there.
func (m *Memory) Stat(ctx context.Context, name string) (storage.Object, error) {
	if err := m.check(ctx, name, false); err != nil {
		return storage.Object{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, found := m.live[name]
	if !found {
		return storage.Object{}, m.fail(errs.FileMissing, fs.ErrNotExist, name)
	}
	return e.describe(name), nil
}

func (e entry) describe(name string) storage.Object {
	return storage.Object{Name: name, Type: e.typ, Size: int64(len(e.content)), ModTime: e.modTime, Target: e.target}
}

// List gives what was there when it was called.
func (m *Memory) List(ctx context.Context, prefix string, what storage.Listing) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		err := m.check(ctx, prefix, true)
		if err == nil && !what.At.IsZero() {
			err = m.fail(errs.FeatureNotSupported, errors.ErrUnsupported, prefix)
		}
		if err != nil {
			yield(storage.Object{}, err)
			return
		}
		for _, o := range m.snapshot(prefix, what) {
			if err := ctx.Err(); err != nil {
				yield(storage.Object{}, errs.Wrap(err, "unable to list '%s'", m.Path(prefix)))
				return
			}
			if !yield(o, nil) {
				return
			}
		}
	}
}

func (m *Memory) snapshot(prefix string, what storage.Listing) []storage.Object {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, found := m.live[prefix]; found && e.typ == storage.Link {
		// As in a file system the names stay those that were asked for.
		target := path.Join(path.Dir(prefix), e.target)
		list := collect(m.live, target, what)
		for i := range list {
			list[i].Name = prefix + strings.TrimPrefix(list[i].Name, target)
		}
		return list
	}
	return collect(m.live, prefix, what)
}

func collect(live map[string]entry, dir string, what storage.Listing) []storage.Object {
	var list []storage.Object
	for name, e := range live {
		if !below(name, dir) || !what.Recurse && path.Dir(name) != path.Clean(dir) {
			continue
		}
		// It leaves no temporary names itself, but may be filled with what other stores leave.
		if (durable.IsTemp(name) && e.typ != storage.Dir) != what.Unfinished {
			continue
		}
		if len(what.Only) == 0 || slices.Contains(what.Only, e.typ) {
			list = append(list, e.describe(name))
		}
	}
	return list
}

func below(name, dir string) bool { return dir == "" || strings.HasPrefix(name, dir+"/") }

// Remove removes objects; they come back with a Crash before the next Sync.
func (m *Memory) Remove(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := m.check(ctx, name, false); err != nil {
			return err
		}
		m.mu.Lock()
		for other := range m.live {
			if below(other, name) {
				m.mu.Unlock()
				return m.fail(errs.PathRemove, errNotEmpty, name)
			}
		}
		delete(m.live, name)
		m.mu.Unlock()
	}
	return nil
}

// RemoveAll removes a directory and what is in it; it comes back with a Crash before
// the next Sync.
func (m *Memory) RemoveAll(ctx context.Context, name string) error {
	if err := m.check(ctx, name, false); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.live, func(other string, _ entry) bool { return other == name || below(other, name) })
	return nil
}

// MakeDir makes a directory and those above it.
func (m *Memory) MakeDir(ctx context.Context, name string) error {
	if err := m.check(ctx, name, false); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.makeDir(name)
}

func (m *Memory) makeDir(name string) error {
	if name == "." {
		return nil
	}
	if e, found := m.live[name]; found {
		if e.typ != storage.Dir {
			return m.fail(errs.PathCreate, errNotDir, name)
		}
		return nil
	}
	if err := m.makeDir(path.Dir(name)); err != nil {
		return err
	}
	m.live[name] = entry{typ: storage.Dir, modTime: m.now()}
	return nil
}

// Symlink makes or replaces a link.
func (m *Memory) Symlink(ctx context.Context, target, name string) error {
	if err := m.check(ctx, name, false); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, found := m.live[name]; found && e.typ != storage.Link {
		return m.fail(errs.LinkExpected, errNotLink, name)
	}
	if err := m.makeDir(path.Dir(name)); err != nil {
		return err
	}
	m.live[name] = entry{typ: storage.Link, target: target, modTime: m.now()}
	return nil
}

// Link gives an object a further name.
func (m *Memory) Link(ctx context.Context, old, name string) error {
	if err := errors.Join(m.check(ctx, old, false), m.check(ctx, name, false)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, found := m.live[old]
	if !found {
		return m.fail(errs.FileMissing, fs.ErrNotExist, old)
	}
	if _, taken := m.live[name]; taken {
		return m.fail(errs.FileExists, fs.ErrExist, name)
	}
	if err := m.makeDir(path.Dir(name)); err != nil {
		return err
	}
	m.live[name] = e
	return nil
}

// Sync makes durable what is at, below and above name, and what is not there any more.
func (m *Memory) Sync(ctx context.Context, name string) error {
	if err := m.check(ctx, name, true); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	covered := func(other string, _ entry) bool { return other == name || below(other, name) }
	maps.DeleteFunc(m.durable, covered)
	for other, e := range m.live {
		if covered(other, e) {
			m.durable[other] = e
		}
	}
	for above := path.Dir(name); above != "."; above = path.Dir(above) {
		if e, found := m.live[above]; found {
			m.durable[above] = e
		} else {
			delete(m.durable, above)
		}
	}
	return nil
}
