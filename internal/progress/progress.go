// Package progress tells how far the copying of many files has come, while a large one is
// under way too.
package progress

import (
	"io"
	"sync"
)

// State is how far it has come. Bytes are those of the files, not of what is stored.
type State struct {
	Files, FilesDone int
	Bytes, BytesDone int64
}

// Meter counts what several goroutines do and tells of each step, never twice at once.
// A nil Meter counts nothing.
type Meter struct {
	mu    sync.Mutex
	state State
	tell  func(State)
}

// New gives a Meter for so many files and bytes, and tells of the beginning. With nothing to
// tell it is nil.
func New(files int, bytes int64, tell func(State)) *Meter {
	if tell == nil {
		return nil
	}
	m := &Meter{state: State{Files: files, Bytes: bytes}, tell: tell}
	m.add(0, 0)
	return m
}

func (m *Meter) add(files int, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state.FilesDone += files
	m.state.BytesDone += bytes
	m.tell(m.state)
}

// File begins a file of a size that was counted in New.
func (m *Meter) File(size int64) *File { return &File{m: m, left: size} }

// File counts the bytes of one file. It is for one goroutine at a time.
type File struct {
	m    *Meter
	left int64
}

// Add counts bytes that were copied. What a file has grown by does not count.
func (f *File) Add(bytes int64) {
	if bytes = min(bytes, f.left); f.m != nil && bytes > 0 {
		f.left -= bytes
		f.m.add(0, bytes)
	}
}

// Done ends the file, and counts what of it was not.
func (f *File) Done() {
	if f.m != nil {
		f.m.add(1, f.left)
		f.left = 0
	}
}

// Writer gives a writer to w after each write to which now says how many bytes of the
// file have been copied so far.
func (f *File) Writer(w io.Writer, now func() int64) io.Writer { return &writer{w, f, now, 0} }

type writer struct {
	io.Writer
	file *File
	now  func() int64
	seen int64
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if now := w.now(); now > w.seen {
		w.file.Add(now - w.seen)
		w.seen = now
	}
	return n, err
}
