package progress_test

import (
	"io"
	"sync"
	"testing"

	"github.com/pgx-backup/pgx/internal/progress"
)

func TestMeter(t *testing.T) {
	var last progress.State
	m := progress.New(3, 300, func(s progress.State) {
		if s.BytesDone < last.BytesDone || s.FilesDone < last.FilesDone {
			t.Errorf("%+v after %+v", s, last)
		}
		last = s
	})
	// One is counted on its way, one grew, of one nothing was heard until it was done.
	var all sync.WaitGroup
	for _, steps := range [][]int64{{10, 20}, {90, 50}, nil} {
		all.Go(func() {
			f := m.File(100)
			for _, n := range steps {
				f.Add(n)
			}
			f.Done()
		})
	}
	all.Wait()
	if last != (progress.State{Files: 3, FilesDone: 3, Bytes: 300, BytesDone: 300}) {
		t.Fatalf("%+v at the end", last)
	}
}

func TestWriter(t *testing.T) {
	var last progress.State
	f := progress.New(1, 100, func(s progress.State) { last = s }).File(100)
	read := int64(0)
	w := f.Writer(io.Discard, func() int64 { return read })
	for _, read = range []int64{30, 30, 80} {
		if _, err := w.Write([]byte("stored")); err != nil {
			t.Fatal(err)
		}
		if last.BytesDone != read {
			t.Fatalf("%d bytes done after %d", last.BytesDone, read)
		}
	}
}

func TestNothingToTell(t *testing.T) {
	f := progress.New(1, 100, nil).File(100)
	f.Add(10)
	f.Done()
}
