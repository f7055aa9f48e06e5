package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/storage"
)

// Run holds a store against the contract of storage.Storage. open gives an empty
// one for each part of the suite and cleans up with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) storage.Storage) {
	for name, test := range map[string]func(*testing.T, storage.Storage){
		"put and open":       putAndOpen,
		"put fails":          putFails,
		"put is cancelled":   putIsCancelled,
		"exclusive":          exclusive,
		"named":              named,
		"readers see whole":  readersSeeWhole,
		"ranges":             ranges,
		"missing":            missing,
		"list":               list,
		"list many":          listMany,
		"unfinished":         unfinished,
		"remove":             remove,
		"remove all":         removeAll,
		"directories":        directories,
		"links":              links,
		"sync":               syncs,
		"names":              names,
		"cancelled":          cancelled,
		"many at once":       manyAtOnce,
		"directory and file": directoryAndFile,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

var allWrites = map[string]storage.Write{
	"atomic": storage.Atomic, "staged": storage.Staged, "exclusive": storage.Exclusive,
}

func put(t *testing.T, st storage.Storage, name, content string) {
	t.Helper()
	if err := st.Put(t.Context(), name, strings.NewReader(content), storage.Atomic); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, st storage.Storage, name string, at storage.Range) string {
	t.Helper()
	r, err := st.Open(t.Context(), name, at)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func holds(t *testing.T, st storage.Storage, name, want string) {
	t.Helper()
	if got := read(t, st, name, storage.Range{}); got != want {
		t.Errorf("'%s' holds %d bytes %.20q, want %d bytes %.20q", name, len(got), got, len(want), want)
	}
}

func absent(t *testing.T, st storage.Storage, name string) {
	t.Helper()
	if o, err := st.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("'%s' is there: %+v, error %v", name, o, err)
	}
}

// listed gives names with a mark of their type: "dir/", "link@target", "file=size".
func listed(t *testing.T, st storage.Storage, prefix string, what storage.Listing) []string {
	t.Helper()
	list := []string{}
	for o, err := range st.List(t.Context(), prefix, what) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, o.Name+map[storage.Type]string{
			storage.File: fmt.Sprintf("=%d", o.Size), storage.Dir: "/", storage.Link: "@" + o.Target, storage.Special: "!",
		}[o.Type])
		if o.Type == storage.File && o.ModTime.IsZero() {
			t.Errorf("'%s' has no time", o.Name)
		}
	}
	slices.Sort(list)
	return list
}

func lists(t *testing.T, st storage.Storage, prefix string, what storage.Listing, want ...string) {
	t.Helper()
	if got := listed(t, st, prefix, what); !slices.Equal(got, want) {
		t.Errorf("list '%s' %+v:\n got %q\nwant %q", prefix, what, got, want)
	}
}

var recurse = storage.Listing{Recurse: true}

// named is for a storage.Namer.
func named(t *testing.T, st storage.Storage) {
	namer, ok := st.(storage.Namer)
	if !ok {
		t.Skip("every object has its name from the start")
	}
	const about, name = "a/b/object", "a/b/object-with-a-sum"
	for _, content := range []string{"first", "second"} {
		asked := 0
		src := &trickle{strings.NewReader(content)}
		err := namer.PutNamed(t.Context(), about, src, func() string {
			if asked++; src.from.Len() > 0 {
				t.Error("asked before all has come")
			}
			return name
		})
		if err != nil || asked != 1 {
			t.Fatalf("asked %d times, %v", asked, err)
		}
		holds(t, st, name, content)
		lists(t, st, "", recurse, "a/", "a/b/", fmt.Sprintf("%s=%d", name, len(content)))
	}
	broken := errors.New("it broke")
	err := namer.PutNamed(t.Context(), about, io.MultiReader(strings.NewReader("third"), failing{broken}), func() string {
		t.Error("asked for a name of what is not whole")
		return name
	})
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = namer.PutNamed(ctx, about, strings.NewReader("fourth"), func() string {
		cancel()
		return name
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := namer.PutNamed(t.Context(), about, strings.NewReader("fifth"), func() string { return "a/b/../../../out" }); err == nil {
		t.Error("led out of the repository")
	}
	lists(t, st, "", storage.Listing{Recurse: true, Unfinished: true})
	lists(t, st, "", recurse, "a/", "a/b/", name+"=6")
	holds(t, st, name, "second")
}

func putAndOpen(t *testing.T, st storage.Storage) {
	for how, write := range allWrites {
		for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, 3<<20 + 12345} {
			content := strings.Repeat("0123456789abcdef!", size/17+1)[:size]
			name := fmt.Sprintf("a/b/%s-%d", how, size)
			// Neither WriterTo nor a reader that fills the buffer.
			src := struct{ io.Reader }{&trickle{strings.NewReader(content)}}
			if err := st.Put(t.Context(), name, src, write); err != nil {
				t.Fatal(err)
			}
			holds(t, st, name, content)
			o, err := st.Stat(t.Context(), name)
			if err != nil || o.Name != name || o.Type != storage.File || o.Size != int64(size) || o.ModTime.IsZero() {
				t.Errorf("stat gives %+v, error %v", o, err)
			}
		}
	}
	for how, write := range map[string]storage.Write{"atomic": storage.Atomic, "staged": storage.Staged} {
		put(t, st, how, "something longer")
		if err := st.Put(t.Context(), how, bytes.NewBufferString("short"), write); err != nil {
			t.Fatal(err)
		}
		holds(t, st, how, "short")
	}
}

// trickle gives uneven pieces, and the last one together with io.EOF.
type trickle struct{ from *strings.Reader }

func (r *trickle) Read(p []byte) (int, error) {
	n, err := r.from.Read(p[:min(len(p), 300_007)])
	if r.from.Len() == 0 {
		err = io.EOF
	}
	return n, err
}

func putFails(t *testing.T, st storage.Storage) {
	broken := errors.New("source broke")
	for how, write := range allWrites {
		for _, name := range []string{how + "/old", how + "/new"} {
			if name == how+"/old" {
				put(t, st, name, "old content")
			}
			src := io.MultiReader(strings.NewReader(strings.Repeat("x", 2<<20)), failing{broken})
			err := st.Put(t.Context(), name, src, write)
			if !errors.Is(err, broken) || !strings.Contains(fmt.Sprint(err), st.Path(name)) {
				t.Errorf("%s: error is %v", name, err)
			}
		}
		if write != storage.Staged {
			lists(t, st, how, recurse, how+"/old=11")
			holds(t, st, how+"/old", "old content")
		}
	}
}

func putIsCancelled(t *testing.T, st storage.Storage) {
	for how, write := range allWrites {
		put(t, st, how+"/old", "old content")
		for _, name := range []string{how + "/old", how + "/new"} {
			ctx, cancel := context.WithCancel(t.Context())
			src := io.MultiReader(strings.NewReader(strings.Repeat("x", 2<<20)), calling(cancel), strings.NewReader("more"))
			err := st.Put(ctx, name, src, write)
			if !errors.Is(err, context.Canceled) || errs.CodeOf(err) != errs.Term {
				t.Errorf("%s: error is %v, code %v", name, err, errs.CodeOf(err))
			}
		}
		if write != storage.Staged {
			lists(t, st, how, recurse, how+"/old=11")
			holds(t, st, how+"/old", "old content")
		}
	}
}

// calling is an empty reader that calls something when it is read.
type calling func()

func (f calling) Read([]byte) (int, error) { f(); return 0, io.EOF }

func exclusive(t *testing.T, st storage.Storage) {
	put(t, st, "taken", "first")
	err := st.Put(t.Context(), "taken", strings.NewReader("second"), storage.Exclusive)
	if !errors.Is(err, fs.ErrExist) || !strings.Contains(fmt.Sprint(err), st.Path("taken")) || errs.CodeOf(err) != errs.FileExists {
		t.Errorf("error is %v", err)
	}
	holds(t, st, "taken", "first")

	const writers = 16
	results := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			results[i] = st.Put(t.Context(), "dir/race", strings.NewReader(strings.Repeat(string(rune('a'+i)), 1000)), storage.Exclusive)
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range results {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("writers %d and %d both succeeded", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, fs.ErrExist):
			t.Errorf("writer %d: %v", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("no writer succeeded")
	}
	holds(t, st, "dir/race", strings.Repeat(string(rune('a'+winner)), 1000))
	lists(t, st, "dir", recurse, "dir/race=1000")
}

func readersSeeWhole(t *testing.T, st storage.Storage) {
	const rounds = 50
	contents := [2]string{strings.Repeat("a", 100_000), strings.Repeat("b", 70_000)}
	put(t, st, "x", contents[0])
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range rounds {
			src := struct{ io.Reader }{strings.NewReader(contents[i%2])}
			if err := st.Put(t.Context(), "x", src, storage.Atomic); err != nil {
				t.Error(err)
			}
		}
	})
	for range rounds {
		if got := read(t, st, "x", storage.Range{}); got != contents[0] && got != contents[1] {
			t.Fatalf("a reader saw %d bytes that were never put as a whole", len(got))
		}
	}
	writer.Wait()
}

func ranges(t *testing.T, st storage.Storage) {
	put(t, st, "x", "0123456789")
	for at, want := range map[storage.Range]string{
		{}:                        "0123456789",
		{Offset: 3}:               "3456789",
		{Length: 3}:               "012",
		{Offset: 3, Length: 4}:    "3456",
		{Offset: 8, Length: 4}:    "89",
		{Offset: 10}:              "",
		{Offset: 11}:              "",
		{Offset: 10, Length: 1}:   "",
		{Offset: 0, Length: 1000}: "0123456789",
	} {
		if got := read(t, st, "x", at); got != want {
			t.Errorf("range %+v gives %q, want %q", at, got, want)
		}
	}
	for _, at := range []storage.Range{{Offset: -1}, {Length: -1}} {
		if _, err := st.Open(t.Context(), "x", at); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("range %+v: error %v", at, err)
		}
	}
	if !st.Features().Versions {
		if _, err := st.Open(t.Context(), "x", storage.Range{Version: "1"}); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("version: error %v", err)
		}
	}
}

func missing(t *testing.T, st storage.Storage) {
	put(t, st, "there", "x")
	for _, name := range []string{"nothing", "no/such/thing"} {
		_, openErr := st.Open(t.Context(), name, storage.Range{})
		_, statErr := st.Stat(t.Context(), name)
		for _, err := range []error{openErr, statErr} {
			if !errors.Is(err, fs.ErrNotExist) || errs.CodeOf(err) != errs.FileMissing || !strings.Contains(err.Error(), st.Path(name)) {
				t.Errorf("error is %v, code %v", err, errs.CodeOf(err))
			}
		}
	}
	lists(t, st, "nothing", recurse)
	lists(t, st, "no/such", storage.Listing{})
	lists(t, st, "there", recurse) // no directory
}

func list(t *testing.T, st storage.Storage) {
	for name, content := range map[string]string{
		"a": "1", "b/c": "22", "b/d/e": "333", "b/d/f": "", "bb/c": "x", "b-c": "y",
	} {
		put(t, st, name, content)
	}
	one := storage.Listing{}
	lists(t, st, "", one, "a=1", "b-c=1", "b/", "bb/")
	lists(t, st, "b", one, "b/c=2", "b/d/")
	lists(t, st, "b/d", one, "b/d/e=3", "b/d/f=0")
	lists(t, st, "", storage.Listing{Only: []storage.Type{storage.Dir}}, "b/", "bb/")
	lists(t, st, "b", storage.Listing{Recurse: true, Only: []storage.Type{storage.File}}, "b/c=2", "b/d/e=3", "b/d/f=0")
	lists(t, st, "", storage.Listing{Recurse: true, Only: []storage.Type{storage.Link, storage.Special}})
	if st.Features().Dirs {
		lists(t, st, "b", recurse, "b/c=2", "b/d/", "b/d/e=3", "b/d/f=0")
	}
	for range st.List(t.Context(), "", recurse) {
		break // leaving early must not hang or panic
	}
}

// unfinished: what has the name of a write under way is listed only when it is asked for, and
// can be removed.
func unfinished(t *testing.T, st storage.Storage) {
	if !st.Features().Dirs {
		return // and no temporary names
	}
	left := []string{"d/e/z" + durable.TempSuffix, "d/y" + durable.TempSuffix}
	put(t, st, "d/x", "1")
	for _, name := range left {
		put(t, st, name, "22")
	}
	asked := storage.Listing{Recurse: true, Unfinished: true}
	lists(t, st, "d", storage.Listing{Recurse: true}, "d/e/", "d/x=1")
	lists(t, st, "d", asked, left[0]+"=2", left[1]+"=2")
	lists(t, st, "", asked, left[0]+"=2", left[1]+"=2")
	lists(t, st, "d", storage.Listing{Unfinished: true}, left[1]+"=2")
	lists(t, st, "d", storage.Listing{Unfinished: true, Recurse: true, Only: []storage.Type{storage.Dir, storage.Link}})
	if err := st.Remove(t.Context(), left...); err != nil {
		t.Error(err)
	}
	lists(t, st, "", asked)
	holds(t, st, "d/x", "1")
}

func listMany(t *testing.T, st storage.Storage) {
	const many = 1100 // more than any driver's page or batch
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := part; i < many; i += 4 {
				if err := st.Put(t.Context(), fmt.Sprintf("d/%04d", i), strings.NewReader(""), storage.Staged); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got := listed(t, st, "d", storage.Listing{})
	if len(got) != many || got[0] != "d/0000=0" || got[many-1] != fmt.Sprintf("d/%04d=0", many-1) {
		t.Errorf("%d names listed, want %d", len(got), many)
	}
	var names []string
	for i := range many {
		names = append(names, fmt.Sprintf("d/%04d", i))
	}
	if err := st.Remove(t.Context(), names[1:]...); err != nil {
		t.Fatal(err)
	}
	lists(t, st, "d", storage.Listing{}, "d/0000=0")
}

func remove(t *testing.T, st storage.Storage) {
	for _, name := range []string{"a", "b/c", "b/d", "e"} {
		put(t, st, name, "x")
	}
	if err := st.Remove(t.Context(), "a", "not there", "no/such/path", "b/c", "e/below a file"); err != nil {
		t.Error(err)
	}
	if err := st.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	files := storage.Listing{Recurse: true, Only: []storage.Type{storage.File}}
	lists(t, st, "", files, "b/d=1", "e=1")
	if st.Features().Dirs {
		if err := st.Remove(t.Context(), "b"); err == nil || !strings.Contains(err.Error(), st.Path("b")) {
			t.Errorf("directory that is not empty: error %v", err)
		}
		lists(t, st, "", files, "b/d=1", "e=1")
		if err := st.Remove(t.Context(), "b/d", "b"); err != nil {
			t.Error(err)
		}
		lists(t, st, "", recurse, "e=1")
	}
}

func removeAll(t *testing.T, st storage.Storage) {
	for _, name := range []string{"a/1", "a/b/2", "a/b/c/3", "a-b", "ab/4"} {
		put(t, st, name, "x")
	}
	if st.Features().Symlinks {
		for name, target := range map[string]string{"a/up": "../ab", "a/b/self": ".", "a/dangling": "nowhere", "a/out": "/"} {
			if err := st.Symlink(t.Context(), target, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := st.RemoveAll(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	absent(t, st, "a")
	lists(t, st, "", storage.Listing{Recurse: true, Only: []storage.Type{storage.File, storage.Link}}, "a-b=1", "ab/4=1")
	for _, name := range []string{"a", "no/such/path", "a-b"} {
		if err := st.RemoveAll(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	absent(t, st, "a-b")
}

func directories(t *testing.T, st storage.Storage) {
	for range 2 {
		if err := st.MakeDir(t.Context(), "a/b/c"); err != nil {
			t.Fatal(err)
		}
	}
	if !st.Features().Dirs {
		lists(t, st, "", recurse)
		return
	}
	lists(t, st, "", recurse, "a/", "a/b/", "a/b/c/")
	if o, err := st.Stat(t.Context(), "a/b"); err != nil || o.Type != storage.Dir || o.Name != "a/b" {
		t.Errorf("stat gives %+v, error %v", o, err)
	}
	if r, err := st.Open(t.Context(), "a/b", storage.Range{}); err == nil {
		t.Errorf("a directory can be opened: %v", r.Close())
	}
	for _, write := range allWrites {
		if err := st.Put(t.Context(), "a/b/c", strings.NewReader("x"), write); err == nil {
			t.Error("an empty directory was replaced by a file")
		}
	}
	lists(t, st, "", recurse, "a/", "a/b/", "a/b/c/")
}

func directoryAndFile(t *testing.T, st storage.Storage) {
	if !st.Features().Dirs {
		return // there a file may have names below it
	}
	put(t, st, "f", "x")
	for what, err := range map[string]error{
		"put":     st.Put(t.Context(), "f/g", strings.NewReader(""), storage.Atomic),
		"staged":  st.Put(t.Context(), "f/g", strings.NewReader(""), storage.Staged),
		"makedir": st.MakeDir(t.Context(), "f/g"),
		"same":    st.MakeDir(t.Context(), "f"),
	} {
		if err == nil || !strings.Contains(err.Error(), st.Path("f")) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	absent(t, st, "f/g")
	holds(t, st, "f", "x")
}

func links(t *testing.T, st storage.Storage) {
	ctx := t.Context()
	put(t, st, "set/one", "1")
	if !st.Features().Symlinks {
		if err := st.Symlink(ctx, "set", "latest"); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("symlink: error %v", err)
		}
	} else {
		for _, target := range []string{"nowhere", "set"} { // the second replaces the first
			if err := st.Symlink(ctx, target, "latest"); err != nil {
				t.Fatal(err)
			}
		}
		if err := st.Symlink(ctx, "../../set", "deep/er/link"); err != nil {
			t.Fatal(err)
		}
		o, err := st.Stat(ctx, "latest")
		if err != nil || o.Type != storage.Link || o.Target != "set" {
			t.Errorf("stat gives %+v, error %v", o, err)
		}
		lists(t, st, "", storage.Listing{Recurse: true, Only: []storage.Type{storage.Link}}, "deep/er/link@../../set", "latest@set")
		lists(t, st, "latest", storage.Listing{}, "latest/one=1")
		if err := st.Symlink(ctx, "set", "set/one"); err == nil {
			t.Error("a file was replaced by a link")
		}
		holds(t, st, "set/one", "1")
		if err := st.Remove(ctx, "latest"); err != nil {
			t.Error(err)
		}
		absent(t, st, "latest")
		holds(t, st, "set/one", "1")
	}
	if !st.Features().Links {
		if err := st.Link(ctx, "set/one", "set/two"); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("link: error %v", err)
		}
		return
	}
	if err := st.Link(ctx, "set/one", "other/set/one"); err != nil {
		t.Fatal(err)
	}
	holds(t, st, "other/set/one", "1")
	if err := st.Link(ctx, "set/one", "other/set/one"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("name taken: error %v", err)
	}
	if err := st.Link(ctx, "nothing", "other/new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing to link: error %v", err)
	}
	// Whatever is put under one name, the other keeps what it had.
	for _, write := range []storage.Write{storage.Atomic, storage.Staged} {
		if err := st.Put(ctx, "set/one", strings.NewReader("changed"), write); err != nil {
			t.Fatal(err)
		}
		holds(t, st, "other/set/one", "1")
		if err := errors.Join(st.Remove(ctx, "set/one"), st.Link(ctx, "other/set/one", "set/one")); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Remove(ctx, "set/one"); err != nil {
		t.Error(err)
	}
	holds(t, st, "other/set/one", "1")
}

func syncs(t *testing.T, st storage.Storage) {
	put(t, st, "a/b/c", "x")
	for _, name := range []string{"", "a", "a/b", "a/b/c", "nothing", "no/such/path", "a/b/c/d"} {
		if err := st.Sync(t.Context(), name); err != nil {
			t.Errorf("sync '%s': %v", name, err)
		}
	}
}

func names(t *testing.T, st storage.Storage) {
	ctx := t.Context()
	for _, name := range []string{"/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "a/./b", "./a", "/"} {
		_, openErr := st.Open(ctx, name, storage.Range{})
		_, statErr := st.Stat(ctx, name)
		var listErr error
		for _, err := range st.List(ctx, name, recurse) {
			listErr = err
		}
		calls := map[string]error{
			"open": openErr, "stat": statErr, "list": listErr,
			"remove": st.Remove(ctx, name), "remove all": st.RemoveAll(ctx, name),
			"make dir": st.MakeDir(ctx, name), "sync": st.Sync(ctx, name),
		}
		for how, write := range allWrites {
			calls[how] = st.Put(ctx, name, strings.NewReader("x"), write)
		}
		if st.Features().Symlinks {
			calls["symlink"] = st.Symlink(ctx, "x", name)
		}
		if st.Features().Links {
			calls["link from"] = st.Link(ctx, name, "x")
			calls["link to"] = st.Link(ctx, "x", name)
		}
		for call, err := range calls {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s '%s': error %v", call, name, err)
			}
		}
	}
	if err := st.RemoveAll(ctx, ""); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("the whole repository can be removed: error %v", err)
	}
	lists(t, st, "", recurse)
	for _, name := range []string{"...", "a..b", ".hidden", "with blank", "ünï", `back\slash`, "100%", "plus+plus", "new\nline"} {
		put(t, st, "odd/"+name, name)
		holds(t, st, "odd/"+name, name)
	}
}

func cancelled(t *testing.T, st storage.Storage) {
	put(t, st, "a/b", "x")
	ctx, cancel := context.WithCancel(t.Context())
	r, err := st.Open(ctx, "a/b", storage.Range{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, readErr := io.ReadAll(r)
	_, openErr := st.Open(ctx, "a/b", storage.Range{})
	_, statErr := st.Stat(ctx, "a/b")
	var listErr error
	for _, err := range st.List(ctx, "", recurse) {
		listErr = err
	}
	calls := map[string]error{
		"read": readErr, "close": errors.Join(r.Close(), context.Canceled), "open": openErr, "stat": statErr, "list": listErr,
		"remove": st.Remove(ctx, "a/b"), "remove all": st.RemoveAll(ctx, "a"),
		"make dir": st.MakeDir(ctx, "c"), "sync": st.Sync(ctx, "a"),
	}
	for how, write := range allWrites {
		calls[how] = st.Put(ctx, "c/"+how, strings.NewReader("x"), write)
	}
	if st.Features().Symlinks {
		calls["symlink"] = st.Symlink(ctx, "x", "c/symlink")
	}
	if st.Features().Links {
		calls["link"] = st.Link(ctx, "a/b", "c/link")
	}
	for call, err := range calls {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", call, err)
		}
	}
	lists(t, st, "", storage.Listing{Recurse: true, Only: []storage.Type{storage.File}}, "a/b=1")
	absent(t, st, "c")
}

func manyAtOnce(t *testing.T, st storage.Storage) {
	const workers, rounds = 8, 20
	want := map[string]string{}
	var wg sync.WaitGroup
	for w := range workers {
		for i := range rounds {
			want[fmt.Sprintf("deep/%d/er/%d", i, w)] = fmt.Sprint(w)
		}
		wg.Go(func() {
			ctx := t.Context()
			for i := range rounds {
				name := fmt.Sprintf("deep/%d/er/%d", i, w)
				err := errors.Join(
					st.MakeDir(ctx, fmt.Sprintf("deep/%d", i)),
					st.Put(ctx, name, strings.NewReader(fmt.Sprint(w)), []storage.Write{storage.Atomic, storage.Staged, storage.Exclusive}[i%3]),
					st.Put(ctx, name+"x", strings.NewReader("x"), storage.Staged),
					st.Sync(ctx, "deep"),
					st.Remove(ctx, name+"x"))
				for _, lerr := range st.List(ctx, "deep", recurse) {
					err = errors.Join(err, lerr)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var files []string
	for name := range want {
		files = append(files, name+"=1")
	}
	slices.Sort(files)
	lists(t, st, "", storage.Listing{Recurse: true, Only: []storage.Type{storage.File}}, files...)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		holds(t, st, name, want[name])
	}
}
