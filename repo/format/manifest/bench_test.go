package manifest_test

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// million makes the text of a manifest of a million files, about 250 MB.
func million(b *testing.B) []byte {
	b.Helper()
	m := sample(b)
	base := *m.Paths.Find("pg_data/base")
	for dir := range 1000 {
		base.Name = fmt.Sprintf("pg_data/base/%d", 16384+dir)
		m.Paths.Add(base)
		for file := range 1000 {
			f := manifest.File{
				Name: fmt.Sprintf("%s/%d", base.Name, 1000000+file*7), Attributes: base.Attributes,
				Size: int64(8192 * (file + 1)), RepoSize: int64(2000*file + 77), Timestamp: 1795225996 + int64(file),
				Bundle: uint32(dir + 1), BundleOffset: int64(file) * 20000, Pages: manifest.PagesValid,
			}
			f.Mode = 0o600
			f.Checksum = sha1.Sum([]byte(f.Name))
			f.RepoChecksum = sha1.Sum(f.Checksum[:])
			if file%2 == 0 {
				f.Reference = fullLabel
			}
			if err := m.Files.Add(f); err != nil {
				b.Fatal(err)
			}
		}
	}
	return write(b, m)
}

func heap() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// processor reports the time of processors, of the garbage collector too, that each iteration of
// loop took: unlike the clock it says little of what else the machine did.
func processor(b *testing.B, loop func()) {
	b.Helper()
	used := func() (all int64) {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	loop()
	b.ReportMetric(float64(used()-before)/1e9/float64(b.N), "cpu-s/op")
}

// BenchmarkMillion reports what a manifest of a million files costs to read, in time and
// in the memory it takes once the text is gone, to write, and to look files up in.
func BenchmarkMillion(b *testing.B) {
	text := million(b)
	b.Run("Parse", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		before := heap()
		var m *manifest.Manifest
		processor(b, func() {
			for b.Loop() {
				m = parse(b, text)
			}
		})
		b.ReportMetric(float64(heap()-before)/1e6, "heap-MB")
		runtime.KeepAlive(m)
		runtime.KeepAlive(text)
	})
	m := parse(b, text)
	b.Run("Write", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		processor(b, func() {
			for b.Loop() {
				if err := m.Write(io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("Find", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			name := fmt.Sprintf("pg_data/base/%d/%d", 16384+i%1000, 1000000+i*13%1000*7)
			if _, found := m.Files.Find(name); !found {
				b.Fatal(name)
			}
		}
	})
	if !bytes.Equal(write(b, m), text) {
		b.Error("the manifest comes out changed")
	}
}
