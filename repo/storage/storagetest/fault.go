package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Trouble is how a storage call goes wrong.
type Trouble int

const (
	// Refuse: the call does nothing and fails. The calls after it work.
	Refuse Trouble = iota

	// Tear: the call fails after it did something. A Staged Put leaves half of the object, a
	// reader and a listing break off half way, and what is all or nothing is done,
	// but the answer is lost. The calls after it work.
	Tear

	// Kill: the process dies in the call. A Staged Put leaves half of the object and
	// RemoveAll half of the tree, anything else does nothing, and no later call does
	// anything either.
	Kill

	// Crash is Kill, and the machine dies with the process: only what was durable is left.
	Crash
)

func (t Trouble) String() string { return [...]string{"refuse", "tear", "kill", "crash"}[t] }

// ErrFault is what a call fails with that was made to.
var ErrFault = errors.New("injected fault")

// EachFault runs op once for each way in which each of its storage calls can go
// wrong, each time on a fresh Memory that setup has filled and that was synced, and at last
// once without trouble. check sees the store as the next process
// will find it and the error of op. The message of a failure names the call.
//
// So that the calls of one run are those of the next, op should be deterministic.
func EachFault(t *testing.T, setup func(t *testing.T, st storage.Storage),
	op func(t *testing.T, st storage.Storage) error,
	check func(t *testing.T, st storage.Storage, err error)) {
	t.Helper()
	for _, trouble := range []Trouble{Refuse, Tear, Kill, Crash} {
		for n := 1; ; n++ {
			fired := false
			t.Run(fmt.Sprintf("%v/%d", trouble, n), func(t *testing.T) {
				memory := NewMemory(time.Now)
				setup(t, memory)
				if err := memory.Sync(t.Context(), ""); err != nil {
					t.Fatal(err)
				}
				faulty := Fail(memory, n, trouble)
				err := op(t, faulty)
				var call string
				if call, fired = faulty.Fired(); fired {
					t.Logf("%v at call %d: %s", trouble, n, call)
				} else if err != nil {
					t.Errorf("without trouble: %v", err)
				}
				if trouble == Crash && fired {
					memory = memory.Crash()
				}
				check(t, memory, err)
			})
			if !fired || t.Failed() {
				break
			}
		}
	}
}

// Faulty passes calls on to a store until one goes wrong.
type Faulty struct {
	storage.Storage // Path and Features are those of the store
	trouble         Trouble

	mu    sync.Mutex
	until int // calls before the one that fails
	call  string
}

// Fail gives a store whose nth call, counted from 1, goes wrong. Path and Features
// are not counted.
func Fail(st storage.Storage, n int, trouble Trouble) *Faulty {
	return &Faulty{Storage: st, trouble: trouble, until: n - 1}
}

// Fired gives the call that went wrong, if it came to that.
func (f *Faulty) Fired() (call string, fired bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.call, f.call != ""
}

// outcome of a call.
type outcome int

const (
	pass outcome = iota
	nothing
	partly
)

func (f *Faulty) next(call string, args ...any) outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.call != "" {
		if f.trouble == Kill || f.trouble == Crash {
			return nothing
		}
		return pass
	}
	if f.until > 0 {
		f.until--
		return pass
	}
	f.call = fmt.Sprintf("%s%q", call, args)
	if f.trouble == Refuse {
		return nothing
	}
	return partly
}

func (f *Faulty) err(name string) error {
	return errs.WrapAs(errs.FileWrite, ErrFault, "'%s'", f.Path(name))
}

// whole does a call that is all or nothing.
func (f *Faulty) whole(do func() error, name, call string, args ...any) error {
	switch out := f.next(call, args...); {
	case out == pass:
		return do()
	case out == partly && f.trouble == Tear:
		if err := do(); err != nil {
			return err
		}
	}
	return f.err(name)
}

// Put may go wrong.
func (f *Faulty) Put(ctx context.Context, name string, src io.Reader, how storage.Write) error {
	if how != storage.Staged {
		return f.whole(func() error { return f.Storage.Put(ctx, name, src, how) }, name, "Put", name)
	}
	switch f.next("Put", name) {
	case pass:
		return f.Storage.Put(ctx, name, src, how)
	case partly:
		content, err := io.ReadAll(src)
		if err != nil {
			return err
		}
		torn := io.MultiReader(bytes.NewReader(content[:len(content)/2]), failing{f.err(name)})
		return f.Storage.Put(ctx, name, torn, how)
	}
	return f.err(name)
}

// PutNamed may go wrong. The store is to be a storage.Namer.
func (f *Faulty) PutNamed(ctx context.Context, about string, src io.Reader, name func() string) error {
	return f.whole(func() error { return f.Storage.(storage.Namer).PutNamed(ctx, about, src, name) }, about, "PutNamed", about)
}

type failing struct{ err error }

func (r failing) Read([]byte) (int, error) { return 0, r.err }

// Open may go wrong at once or while the object is read.
func (f *Faulty) Open(ctx context.Context, name string, at storage.Range) (io.ReadCloser, error) {
	out := f.next("Open", name)
	if out == nothing || out == partly && f.trouble != Tear {
		return nil, f.err(name)
	}
	r, err := f.Storage.Open(ctx, name, at)
	if err != nil || out == pass {
		return r, err
	}
	content, err := io.ReadAll(r)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	torn := io.MultiReader(bytes.NewReader(content[:len(content)/2]), failing{f.err(name)})
	return struct {
		io.Reader
		io.Closer
	}{torn, r}, nil
}

// Stat may go wrong.
func (f *Faulty) Stat(ctx context.Context, name string) (storage.Object, error) {
	if f.next("Stat", name) != pass {
		return storage.Object{}, f.err(name)
	}
	return f.Storage.Stat(ctx, name)
}

// List may go wrong at once or after the first half.
func (f *Faulty) List(ctx context.Context, prefix string, what storage.Listing) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		out := f.next("List", prefix)
		var list []storage.Object
		var err error
		if out == pass || out == partly && f.trouble == Tear {
			for o, oerr := range f.Storage.List(ctx, prefix, what) {
				if err = oerr; err == nil {
					list = append(list, o)
				}
			}
		}
		if out != pass {
			list, err = list[:len(list)/2], f.err(prefix)
		}
		for _, o := range list {
			if !yield(o, nil) {
				return
			}
		}
		if err != nil {
			yield(storage.Object{}, err)
		}
	}
}

// Remove may go wrong; torn it removes the first half of the names.
func (f *Faulty) Remove(ctx context.Context, names ...string) error {
	out := f.next("Remove", names)
	if out == pass {
		return f.Storage.Remove(ctx, names...)
	}
	if out == partly && f.trouble == Tear {
		if err := f.Storage.Remove(ctx, names[:(len(names)+1)/2]...); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return f.err("")
	}
	return f.err(names[0])
}

// RemoveAll may go wrong; torn it removes half of what is below.
func (f *Faulty) RemoveAll(ctx context.Context, name string) error {
	out := f.next("RemoveAll", name)
	if out == pass {
		return f.Storage.RemoveAll(ctx, name)
	}
	if out == partly {
		var files []string
		for o, err := range f.Storage.List(ctx, name, storage.Listing{Recurse: true}) {
			if err != nil {
				return err
			}
			if o.Type != storage.Dir {
				files = append(files, o.Name)
			}
		}
		slices.Sort(files)
		if err := f.Storage.Remove(ctx, files[:len(files)/2]...); err != nil {
			return err
		}
	}
	return f.err(name)
}

// MakeDir may go wrong.
func (f *Faulty) MakeDir(ctx context.Context, name string) error {
	return f.whole(func() error { return f.Storage.MakeDir(ctx, name) }, name, "MakeDir", name)
}

// Symlink may go wrong.
func (f *Faulty) Symlink(ctx context.Context, target, name string) error {
	return f.whole(func() error { return f.Storage.Symlink(ctx, target, name) }, name, "Symlink", target, name)
}

// Link may go wrong.
func (f *Faulty) Link(ctx context.Context, old, name string) error {
	return f.whole(func() error { return f.Storage.Link(ctx, old, name) }, name, "Link", old, name)
}

// Sync may go wrong.
func (f *Faulty) Sync(ctx context.Context, name string) error {
	return f.whole(func() error { return f.Storage.Sync(ctx, name) }, name, "Sync", name)
}
