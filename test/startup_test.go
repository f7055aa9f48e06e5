package test

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What the program may initialise before main. PostgreSQL starts it for every segment, so
// each of these costs every one of them. These are not times, which depend on the machine,
// but what the runtime counts, which is the same in every run; a fifth is left for what a
// new release of Go brings. The SDK of an object store takes several times as much.
const (
	maxInitPackages = 140
	maxInitAllocs   = 1200
	maxInitBytes    = 200_000
)

// initLine is "init PACKAGE @1.2 ms, 0.1 ms clock, 432 bytes, 9 allocs".
var initLine = regexp.MustCompile(`^init (\S+) @.* clock, (\d+) bytes, (\d+) allocs$`)

func TestStartup(t *testing.T) {
	cmd := exec.Command(pgxPath(), "version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var trace bytes.Buffer
	cmd.Stderr = &trace
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	type initialised struct {
		name          string
		bytes, allocs int
	}
	var all []initialised
	var sum initialised
	for line := range strings.Lines(trace.String()) {
		m := initLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		bytes, _ := strconv.Atoi(m[2])
		allocs, _ := strconv.Atoi(m[3])
		all = append(all, initialised{m[1], bytes, allocs})
		sum.bytes += bytes
		sum.allocs += allocs
	}
	t.Logf("%d packages initialise something: %d allocations, %d bytes", len(all), sum.allocs, sum.bytes)
	if len(all) < 20 {
		t.Fatalf("that cannot be all:\n%s", trace.String())
	}
	if len(all) <= maxInitPackages && sum.allocs <= maxInitAllocs && sum.bytes <= maxInitBytes {
		return
	}
	slices.SortFunc(all, func(a, b initialised) int { return cmp.Compare(b.bytes, a.bytes) })
	var most strings.Builder
	for _, i := range all[:20] {
		fmt.Fprintf(&most, "\n%8d bytes %6d allocations  %s", i.bytes, i.allocs, i.name)
	}
	t.Errorf("at most %d packages, %d allocations and %d bytes are allowed: what is heavy belongs into a program of its own. Most take%s",
		maxInitPackages, maxInitAllocs, maxInitBytes, most.String())
}
