//go:build linux

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// names are what the work of a package is called. Of other packages the work has the package's
// own name.
var names = []struct{ prefix, name string }{
	{"crypto/sha1", "SHA-1"}, {"crypto/internal/fips140/sha256", "SHA-256"},
	{"crypto/internal/fips140/aes", "AES"}, {"crypto/aes", "AES"},
	{"golang.org/x/crypto/ssh", "SSH"},
	{module + "internal/lz4", "LZ4"}, {"github.com/pierrec/lz4", "LZ4"}, {"github.com/pierrec/lz4/v4/internal/xxh32", "XXH32"},
	{"github.com/klauspost/compress/zstd/internal/xxhash", "XXH64"},
	{"github.com/klauspost/compress/zstd", "zstd"}, {"github.com/klauspost/compress/huff0", "zstd"}, {"github.com/klauspost/compress/fse", "zstd"},
	{"github.com/klauspost/compress/flate", "deflate"}, {"github.com/klauspost/compress/gzip", "deflate"},
	{"hash/crc32", "CRC-32"},
	{module + "internal/postgres", "page checksum"},
}

// helpers are packages whose work is that of the package that calls them.
var helpers = []string{"slices.", "cmp.", "maps.", "sort.", "strings.", "bytes.", "strconv.", "encoding/binary.", "unicode/utf8.", "math/bits.",
	"sync.", "sync/atomic.", "internal/sync.", "internal/bytealg.", "internal/byteorder.", "github.com/klauspost/compress/internal/"}

// The names of work that is not told by a package.
const (
	memory    = "memory: allocation and collection"
	scheduler = "goroutines and threads"
	copying   = "copying in memory"
)

// memoryFunctions and schedulerFunctions are functions below which all is that work.
var (
	memoryFunctions = []string{"runtime.mallocgc", "runtime.gcBgMarkWorker", "runtime.gcAssistAlloc", "runtime.bgsweep", "runtime.bgscavenge",
		"runtime.growslice", "runtime.gcStart", "runtime.makeslice", "runtime.newobject", "runtime.wbBufFlush", "gcWriteBarrier", "runtime.sysmon", "runtime.GC"}
	schedulerFunctions = []string{"runtime.schedule", "runtime.mcall", "runtime.park_m", "runtime.mstart", "runtime.futex", "runtime.systemstack", "runtime.ready"}
)

// work says what was being done.
func work(s stack) string {
	system, at := "", 0 // the process, if no function tells more
	for i, name := range slices.Backward(s.frames) {
		if strings.HasPrefix(name, "runtime.") || strings.HasPrefix(name, "internal/runtime/") || !strings.Contains(name, ".") {
			continue
		}
		if system == "" {
			system = systemCall(name)
		}
		if !isSystem(name) && !slices.ContainsFunc(helpers, func(h string) bool { return strings.HasPrefix(name, h) }) {
			at = i
			break
		}
	}
	called := s.frames[at+1:]
	under := func(functions []string) bool {
		return slices.ContainsFunc(called, func(name string) bool { return slices.Contains(functions, name) })
	}
	switch leaf := s.frames[len(s.frames)-1]; {
	case system != "":
		if slices.ContainsFunc(s.frames, func(name string) bool { return strings.HasPrefix(name, "net.") }) {
			return "network: " + system
		}
		return "system call " + system
	case under(memoryFunctions):
		return memory
	case leaf == "runtime.memmove":
		return copying
	case under(schedulerFunctions) || at == 0:
		return scheduler
	}
	best := ""
	name := packageOf(shorten(s.frames[at]))
	for _, n := range names {
		if strings.HasPrefix(s.frames[at], n.prefix) && len(n.prefix) > len(best) {
			best, name = n.prefix, n.name
		}
	}
	return name
}

// isSystem says whether a function is part of a system call.
func isSystem(name string) bool {
	return slices.ContainsFunc(kinds[0].prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// systemCall gives the system call that a function of Go is named after, or "".
func systemCall(name string) string {
	for _, p := range []string{"syscall.", "internal/syscall/unix.", "golang.org/x/sys/unix."} {
		if call, ok := strings.CutPrefix(name, p); ok && !strings.Contains(strings.ToLower(call), "syscall") {
			return strings.ToLower(call)
		}
	}
	return ""
}

// packageOf gives the package's part of a function's name.
func packageOf(name string) string {
	receiver, _, _ := strings.Cut(name, "(")
	slash := strings.LastIndex(receiver, "/") + 1
	pkg, _, _ := strings.Cut(name[slash:], ".")
	return name[:slash] + pkg
}

// cost is the time of one kind of work.
type cost struct {
	name string
	time time.Duration
}

// costs gives all kinds of work, the longest first.
func costs(stacks []stack) (all []cost, total time.Duration) {
	sums := map[string]time.Duration{}
	for _, s := range stacks {
		sums[work(s)] += s.time
		total += s.time
	}
	for name, t := range sums {
		all = append(all, cost{name, t})
	}
	slices.SortFunc(all, func(a, b cost) int { return cmp.Or(cmp.Compare(b.time, a.time), strings.Compare(a.name, b.name)) })
	return all, total
}

// table writes the largest costs of a data path as a row of a Markdown table.
func table(w io.Writer, title string, stacks []stack) {
	const shown, least = 7, 0.02
	all, total := costs(stacks)
	var words []string
	for i, c := range all {
		share := c.time.Seconds() / total.Seconds()
		if i == shown || share < least {
			break
		}
		words = append(words, fmt.Sprintf("%s %.0f %%", c.name, 100*share))
	}
	fmt.Fprintf(w, "| %s | %.1f | %s |\n", title, total.Seconds(), strings.Join(words, ", "))
}
