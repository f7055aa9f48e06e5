package postgres

import (
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGuarded has pages between two regions that may be neither read nor written, in a region
// that may not be written: else the process is killed.
func TestGuarded(t *testing.T) {
	const region = 1 << 16 // a multiple of the machine's page size, on arm64 too
	r := rand.NewChaCha8([32]byte{})
	m, err := unix.Mmap(-1, 0, 3*region, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	}()
	inner := m[region : 2*region : 2*region]
	_, _ = r.Read(inner)
	for i, protection := range []int{unix.PROT_NONE, unix.PROT_READ, unix.PROT_NONE} {
		if err := unix.Mprotect(m[i*region:(i+1)*region], protection); err != nil {
			t.Fatal(err)
		}
	}
	for size := 1 << 10; size <= 1<<15; size *= 2 {
		for _, page := range [][]byte{inner[:size:size], inner[region-size:]} {
			sameFolds(t, page)
			CheckPage(page, 1, true)
			CheckPage(page, 1, false)
		}
	}
}
