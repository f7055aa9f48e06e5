//go:build linux

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

const traces = `File: pgx
Type: cpu
Duration: 2.63s, Total samples = 710ms (27.03%)
-----------+-------------------------------------------------------
  40000000ns   crypto/sha1.blockSHANI
               crypto/sha1.block (inline)
               github.com/pgx-backup/pgx/internal/pipeline.(*Store).round
               main.run
               main.main
               runtime.main
-----------+-------------------------------------------------------
  10000000ns   internal/runtime/syscall/linux.Syscall6
               syscall.RawSyscall6
               syscall.Syscall
               syscall.read
               internal/poll.ignoringEINTRIO (inline)
               internal/poll.(*FD).Read
               os.(*File).Read
               main.run
               main.main
               runtime.main
-----------+-------------------------------------------------------
`

func TestParseTraces(t *testing.T) {
	got, err := parseTraces([]byte(traces))
	if err != nil {
		t.Fatal(err)
	}
	want := []stack{
		{[]string{"main.run", "github.com/pgx-backup/pgx/internal/pipeline.(*Store).round", "crypto/sha1.block", "crypto/sha1.blockSHANI"}, 40 * time.Millisecond},
		{[]string{"main.run", "os.(*File).Read", "syscall.read"}, 10 * time.Millisecond},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, bad := range []string{"", "File: pgx", strings.Replace(traces, "40000000ns", "many", 1)} {
		if _, err := parseTraces([]byte(bad)); err == nil {
			t.Errorf("no error of %q", bad)
		}
	}
}

func TestWork(t *testing.T) {
	for _, test := range []struct{ frames, want string }{
		{"crypto/sha1.block crypto/sha1.blockSHANI", "SHA-1"},
		{"os.(*File).Read syscall.read", "system call read"},
		{"net.(*conn).Read syscall.read", "network: read"},
		{"os.(*Root).OpenFile internal/syscall/unix.Openat", "system call openat"},
		{module + "internal/lz4.(*Encoder).Encode runtime.memmove", copying},
		{module + "repo.(*Repo).x runtime.growslice runtime.memmove", memory},
		{"runtime.gcBgMarkWorker runtime.scanobject", memory},
		{"runtime.mcall runtime.schedule runtime.findRunnable", scheduler},
		{module + "repo.(*Repo).x runtime.ready runtime.futex", scheduler},
		{"github.com/klauspost/compress/zstd.(*Encoder).x github.com/klauspost/compress/internal/le.Load32", "zstd"},
		{"github.com/klauspost/compress/zstd/internal/xxhash.writeBlocks", "XXH64"},
		{module + "repo/format/info.Read slices.Clone[go.shape.[]" + module + "repo/format/info.Entry]", "repo/format/info"},
		{"encoding/json.(*decodeState).object", "encoding/json"},
	} {
		if got := work(stack{frames: append([]string{"pgx backup"}, strings.Fields(test.frames)...)}); got != test.want {
			t.Errorf("'%s' is '%s', want '%s'", test.frames, got, test.want)
		}
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	table(&b, "backup", []stack{
		{[]string{"pgx backup", "crypto/sha1.block"}, 3 * time.Second},
		{[]string{"pgx backup", "syscall.read"}, 6 * time.Second},
		{[]string{"pgx backup", "crypto/sha1.block"}, time.Second},
		{[]string{"pgx backup", "syscall.close"}, 100 * time.Millisecond}, // too little
	})
	if want := "| backup | 10.1 | system call read 59 %, SHA-1 40 % |\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestDraw(t *testing.T) {
	picture := draw("a <title>", graph([]stack{
		{[]string{"pgx backup", module + "repo.(*Repo).Put", "os.(*File).Write", "syscall.write"}, 700 * time.Millisecond},
		{[]string{"pgx backup", module + "repo.(*Repo).Put", "runtime.memmove"}, 299 * time.Millisecond},
		{[]string{"pgx backup", "rare.Thing"}, 1 * time.Millisecond},
	}))
	for d := xml.NewDecoder(strings.NewReader(picture)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v\n%s", err, picture)
		}
	}
	for _, want := range []string{
		"a &lt;title&gt;: 1.0 s", `<title>pgx backup, 100.0 %</title><rect class="p" x="0.0" y="46" width="1200.0"`,
		`<title>repo.(*Repo).Put, 99.9 %</title><rect class="p" x="0.0" y="63"`, `<title>syscall.write, 70.0 %</title><rect class="k"`,
		`<title>runtime.memmove, 29.9 %</title><rect class="r" x="840.0" y="80"`,
	} {
		if !strings.Contains(picture, want) {
			t.Errorf("there is no %s in\n%s", want, picture)
		}
	}
	if strings.Contains(picture, "rare") {
		t.Errorf("what took a thousandth is shown:\n%s", picture)
	}
}

func TestFit(t *testing.T) {
	for _, test := range []struct {
		name  string
		width float64
		want  string
	}{
		{"repo/storage/posix.(*Storage).Put", 1000, "repo/storage/posix.(*Storage).Put"},
		{"repo/storage/posix.(*Storage).Put", 22 * letterWidth, "posix.(*Storage).Put"},
		{"repo/storage/posix.(*Storage).Put", 10 * letterWidth, "posix.(*S…"},
		{"runtime.memmove", 0, "…"},
	} {
		if got := fit(test.name, test.width); got != test.want {
			t.Errorf("'%s' in %.0f pixels is '%s', want '%s'", test.name, test.width, got, test.want)
		}
	}
	if got, want := shorten("slices.Clone[go.shape.[]"+module+"repo.Entry].func1"), "slices.Clone[…].func1"; got != want {
		t.Errorf("'%s', want '%s'", got, want)
	}
}
