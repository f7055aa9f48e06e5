package durable

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// content is n bytes of which no piece is like another.
func content(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b) // never fails
	return b
}

// TestCold: a cold file holds what was written to it, in whatever pieces that came and wherever it ends.
func TestCold(t *testing.T) {
	writes := map[string]func(f *File, b []byte) error{
		"Write at once": func(f *File, b []byte) error {
			_, err := f.Write(b)
			return err
		},
		"Write": func(f *File, b []byte) error {
			for len(b) > 0 {
				n, err := f.Write(b[:min(len(b), 65_537)])
				if err != nil {
					return err
				}
				b = b[n:]
			}
			return nil
		},
		"Take": func(f *File, b []byte) error {
			src := bytes.NewReader(b)
			for {
				_, err := f.Take(func(p []byte) (int, error) { return src.Read(p[:min(len(p), 300_001)]) })
				if err == io.EOF {
					return nil
				}
				if err != nil {
					return err
				}
			}
		},
	}
	for _, size := range []int{0, 1, 4096, pieceSize - 1, pieceSize, pieceSize + 1, 3 * pieceSize, 3*pieceSize + 5000} {
		for name, write := range writes {
			for how, create := range map[string]func(*os.Root) (*File, error){
				"Create":        func(r *os.Root) (*File, error) { return Create(r, "f", 0o600) },
				"CreateInPlace": func(r *os.Root) (*File, error) { return CreateInPlace(r, "f", 0o600) },
			} {
				root, err := os.OpenRoot(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				defer root.Close()
				f, err := create(root)
				if err != nil {
					t.Fatal(err)
				}
				f.Cold()
				b := content(size)
				if err := write(f, b); err != nil {
					t.Fatalf("%s, %s, %d bytes: %v", how, name, size, err)
				}
				if err := f.Commit(t.Context()); err != nil {
					t.Fatalf("%s, %s, %d bytes: %v", how, name, size, err)
				}
				got, err := root.ReadFile("f")
				if err != nil || !bytes.Equal(got, b) {
					t.Errorf("%s, %s: %d of %d bytes, or others: %v", how, name, len(got), size, err)
				}
			}
		}
	}
}

// TestColdStaysOut: nothing of a cold file is in the page cache after Commit, but of one that is not.
func TestColdStaysOut(t *testing.T) {
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("a tmpfs is nothing but page cache")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, cold := range []bool{true, false} {
		f, err := Create(root, "f", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if cold {
			f.Cold()
		}
		if _, err := f.Write(content(3*pieceSize + 5000)); err != nil {
			t.Fatal(err)
		}
		if err := f.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := cachedPages(t, root, "f"); cold && n > 0 || !cold && n == 0 {
			t.Errorf("cold %v: %d pages are in the cache", cold, n)
		}
	}
}

func cachedPages(t *testing.T, root *os.Root, name string) (n int) {
	t.Helper()
	f, err := root.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(m) }()
	in := make([]byte, (len(m)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&in[0]))); e != 0 {
		t.Fatal(e)
	}
	for _, p := range in {
		n += int(p & 1)
	}
	return n
}

// TestDirectRefused: a file system that refuses to take a piece past the page cache gets it through it.
func TestDirectRefused(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	odd := make([]byte, pieceSize+2*pieceAlign)
	at := -uintptr(unsafe.Pointer(&odd[0]))%pieceAlign + 1
	d := &direct{file: file, buf: (*piece)(odd[at:])}
	if err := d.set(true); err != nil {
		t.Skipf("this file system has no O_DIRECT: %v", err)
	}
	if _, err := file.Write(odd[at : at+pieceAlign]); !errors.Is(err, syscall.EINVAL) {
		t.Skipf("this file system writes from any address: %v", err)
	}
	if err := d.set(false); err != nil {
		t.Fatal(err)
	}
	want := content(2*pieceSize + 77)
	if _, err := d.write(want); err != nil {
		t.Fatal(err)
	}
	if err := d.finish(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, or others: %v", len(got), len(want), err)
	}
}
