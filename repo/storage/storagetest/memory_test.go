package storagetest_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

func TestContract(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Storage { return storagetest.NewMemory(time.Now) })
}

func names(t *testing.T, st storage.Storage) string {
	t.Helper()
	var list []string
	for o, err := range st.List(t.Context(), "", storage.Listing{Recurse: true, Only: []storage.Type{storage.File, storage.Link}}) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%s=%d", o.Name, o.Size))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestCrashKeepsWhatIsDurable(t *testing.T) {
	ctx := t.Context()
	put := func(name string, how storage.Write) func(storage.Storage) error {
		return func(st storage.Storage) error { return st.Put(ctx, name, strings.NewReader("new"), how) }
	}
	sync := func(name string) func(storage.Storage) error {
		return func(st storage.Storage) error { return st.Sync(ctx, name) }
	}
	for _, test := range []struct {
		name string
		ops  []func(storage.Storage) error
		want string
	}{
		{"atomic survives", []func(storage.Storage) error{put("b/c", storage.Atomic)}, "a/old=1 b/c=3"},
		{"exclusive survives", []func(storage.Storage) error{put("b/c", storage.Exclusive)}, "a/old=1 b/c=3"},
		{"staged does not", []func(storage.Storage) error{put("b/c", storage.Staged)}, "a/old=1"},
		{"staged and synced survives", []func(storage.Storage) error{put("b/c", storage.Staged), sync("b")}, "a/old=1 b/c=3"},
		{"synced elsewhere does not", []func(storage.Storage) error{put("b/c", storage.Staged), sync("a")}, "a/old=1"},
		{"staged over old keeps old", []func(storage.Storage) error{put("a/old", storage.Staged)}, "a/old=1"},
		{"removed comes back", []func(storage.Storage) error{
			func(st storage.Storage) error { return st.Remove(ctx, "a/old") }}, "a/old=1"},
		{"removed and synced is gone", []func(storage.Storage) error{
			func(st storage.Storage) error { return st.Remove(ctx, "a/old") }, sync("a")}, ""},
		{"tree removed and synced above is gone", []func(storage.Storage) error{
			func(st storage.Storage) error { return st.RemoveAll(ctx, "a") }, sync("")}, ""},
		{"tree removed and synced is gone", []func(storage.Storage) error{
			func(st storage.Storage) error { return st.RemoveAll(ctx, "a") }, sync("a")}, ""},
		{"link does not survive", []func(storage.Storage) error{
			func(st storage.Storage) error { return st.Symlink(ctx, "old", "a/link") }}, "a/old=1"},
		{"synced link does", []func(storage.Storage) error{
			func(st storage.Storage) error { return st.Link(ctx, "a/old", "c/link") }, sync("c")}, "a/old=1 c/link=1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			st := storagetest.NewMemory(time.Now)
			if err := st.Put(ctx, "a/old", strings.NewReader("o"), storage.Atomic); err != nil {
				t.Fatal(err)
			}
			for _, op := range test.ops {
				if err := op(st); err != nil {
					t.Fatal(err)
				}
			}
			if got := names(t, st.Crash()); got != test.want {
				t.Errorf("after the crash: %q, want %q", got, test.want)
			}
		})
	}
}

// TestEachFault walks through an operation with one flaw per step and counts what is
// found behind it.
func TestEachFault(t *testing.T) {
	seen := map[string]int{}
	storagetest.EachFault(t,
		func(t *testing.T, st storage.Storage) {
			if err := st.Put(t.Context(), "info", strings.NewReader("before"), storage.Staged); err != nil {
				t.Fatal(err)
			}
		},
		func(t *testing.T, st storage.Storage) error {
			ctx := t.Context()
			return firstError(
				func() error { return st.Put(ctx, "data/1", strings.NewReader("12345678"), storage.Staged) },
				func() error { return st.Sync(ctx, "data") },
				func() error { return st.Put(ctx, "info", strings.NewReader("after"), storage.Atomic) },
			)
		},
		func(t *testing.T, st storage.Storage, err error) {
			if err != nil && !errors.Is(err, storagetest.ErrFault) {
				t.Errorf("error %v", err)
			}
			o, serr := st.Stat(t.Context(), "data/1")
			info, ierr := st.Stat(t.Context(), "info")
			if ierr != nil {
				t.Fatal(ierr)
			}
			if info.Size == int64(len("after")) && (serr != nil || o.Size != 8) {
				t.Errorf("the new info is there, what it speaks of is not: %+v, %v", o, serr)
			}
			if serr != nil && !errors.Is(serr, fs.ErrNotExist) {
				t.Fatal(serr)
			}
			state := fmt.Sprintf("data %d, info %d, failed %t", o.Size, info.Size, err != nil)
			seen[state]++
		})
	want := map[string]int{
		"data 0, info 6, failed true":  1 + 0 + 0 + 2, // refused; crashed at data and at its sync
		"data 4, info 6, failed true":  0 + 1 + 1 + 0, // torn, killed while it was written
		"data 8, info 6, failed true":  2 + 1 + 2 + 1, // later
		"data 8, info 5, failed true":  1,             // the answer was lost
		"data 8, info 5, failed false": 4,             // once for each kind of trouble
	}
	for state, n := range want {
		if seen[state] != n {
			t.Errorf("'%s' seen %d times, want %d", state, seen[state], n)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("seen %v", seen)
	}
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
