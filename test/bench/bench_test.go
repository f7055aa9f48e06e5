//go:build linux

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0}, {[]float64{3}, 3}, {[]float64{4, 1}, 2.5}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 9, 2}, 3},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("of %v: %v", test.values, got)
		}
	}
}

// in gives a contest of a tool that has a turn.
func in(name, codec string, r round) contest {
	return contest{tool: &tool{name: name}, codec: codec, m: measurer{turn: r}}
}

// The second round ran on a busy machine: it takes both programs longer and must not
// move the ratio. That which counts is not timed.
func TestRatioIsThatOfEachRound(t *testing.T) {
	var r report
	for i, busy := range []float64{5, 1, 10, 1.1} {
		turn := round{i, 3}
		r.add(restore, in(pgxName, "lz4", turn), sample{Wall: busy, CPU: 3 * busy, RSS: 10 << 20, Syncs: 4})
		r.add(restore, in(peerName, "lz4", turn), sample{Wall: 2 * busy, CPU: 2 * busy, RSS: 40 << 20, Syncs: 7})
		r.add(restore, in(baseName, "lz4", turn), sample{Wall: 4 * busy, CPU: 1})
		r.add(backup, in(peerName, "lz4", turn), sample{Wall: 1})
		r.add(backup, in(pgxName, "lz4", turn), sample{Wall: float64(i)})
		r.add(loadManifest, in(pgxName, "", turn), sample{Wall: 1})
	}
	r.summarize()
	if len(r.Rows) != 3 || r.Rows[0].Operation != backup || r.Rows[1].Operation != restore || r.Rows[2].Operation != loadManifest {
		t.Fatalf("rows are %v", r.Rows)
	}
	got := r.Rows[1]
	same := func(v float64) spread { return spread{v, v, v} }
	want := ratio{Wall: same(0.5), CPU: same(1.5), RSS: same(0.25)}
	if got.Ratio != want || got.Median[pgxName].Wall != 1.1 || got.Syncs[pgxName] != 4 || got.Syncs[peerName] != 7 {
		t.Errorf("ratios are %+v, medians %+v, syncs %v", got.Ratio, got.Median, got.Syncs)
	}
	if got := got.to(baseName).Wall; got != same(0.25) {
		t.Errorf("to %s the ratio is %+v", baseName, got)
	}
	if got := r.Rows[0].Ratio.Wall; got != (spread{2, 1.5, 2.5}) {
		t.Errorf("of 1, 2 and 3 there are %+v", got)
	}
	if got := r.Rows[2].Ratio; got != (ratio{}) {
		t.Errorf("without another program the ratio is %+v", got)
	}
	r.Programs = []string{"pgx", "pgbackrest"}
	var b strings.Builder
	r.table(&b)
	if !strings.Contains(b.String(), "restore") {
		t.Errorf("the table is\n%s", b.String())
	}
}

// Backups begin at times that share a second evenly.
func TestPhase(t *testing.T) {
	for i, want := range []time.Duration{125, 125, 375, 625, 875} { // that which counts, and four
		if got := (round{i, 4}).phase(); got != want*time.Millisecond {
			t.Errorf("round %d begins %v after the second", i, got)
		}
	}
}

// A target holds up to its limit, and each part of the corpus counts where it is asked for.
func TestVerdicts(t *testing.T) {
	var r report
	for _, x := range []struct {
		operation, corpus, codec string
		cpu, wall                float64
		stored                   int64
		misses                   string // of each target
	}{
		{backup, "", "lz4", 95, 100, 105, "; memory"},
		{backup, "text", "lz4", 96, 90, 106, "CPU stored"},
		{backup, "text", "zst", 900, 900, 900, ""}, // not asked for
		{backup, "", "gz", 50, 61, 100, "wall; memory"},
		{restore, "", "gz", 120, 121, 0, "wall"},
		{listOne, "", "", 1, 101, 0, "seconds"},
		{saveManifest, "", "", 1, 199, 0, ""},
		{deltaRestore, "", "zst", 900, 900, 0, ""}, // not asked for
	} {
		for _, name := range []string{pgxName, peerName} {
			s := sample{CPU: x.cpu / 100, Wall: x.wall / 100, Stored: x.stored, RSS: 151 << 20}
			if name == peerName {
				s = sample{CPU: 1, Wall: 1, Stored: 100, RSS: 1 << 20}
			}
			c := in(name, x.codec, round{1, 1})
			c.corpus = x.corpus
			r.add(x.operation, c, s)
		}
		r.summarize()
		var got []string
		for _, v := range r.judged() {
			if v.Operation == x.operation && v.Corpus == x.corpus && v.Codec == x.codec {
				got = append(got, strings.Join(v.misses(), " "))
			}
		}
		if strings.Join(got, "; ") != x.misses {
			t.Errorf("of %s %s %s missed is %q", x.operation, x.corpus, x.codec, got)
		}
	}
	var b strings.Builder
	r.verdicts(&b)
	if !strings.Contains(b.String(), "no: CPU, stored") {
		t.Errorf("the verdicts are\n%s", b.String())
	}
}

// Of what pgx reads, as much counts as it is of the databases.
func TestReadTarget(t *testing.T) {
	var r report
	for i, bytes := range []int64{90, 4, 5, 6} { // the first is not timed
		r.add(summaryIncr18, in(pgxName, "zst", round{i, 3}), sample{Wall: 1, Read: bytes, Data: 100})
	}
	holds := func(want string) {
		t.Helper()
		r.summarize()
		var b strings.Builder
		r.verdicts(&b)
		if all := r.judged(); len(all) != 1 || strings.Join(all[0].misses(), " ") != want || !strings.Contains(b.String(), "5.00 %") {
			t.Errorf("missed is not %q:\n%s", want, b.String())
		}
	}
	holds("")
	for range 2 {
		r.add(summaryIncr18, in(pgxName, "zst", round{1, 3}), sample{Wall: 1, Read: 6, Data: 100})
	}
	holds("read")
}

// A call that another interrupts has two lines.
func TestSyncsIn(t *testing.T) {
	const trace = `12 fsync(3)                          = 0
12 fdatasync(4 <unfinished ...>
1234  syncfs(5)                        = 0
12 <... fdatasync resumed>)          = 0
12 +++ exited with 0 +++
12 write(1, "fsync(3)", 8) = 8
`
	if got := syncsIn([]byte(trace)); got != 3 {
		t.Errorf("%d calls are seen", got)
	}
	if got := syncsIn([]byte("sync()  = 0\nfsync(3) = 0\n")); got != 2 {
		t.Errorf("of one process %d calls are seen", got)
	}
}

// What a program and its children sync is counted.
func TestCountSyncs(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(asProgram, "y")
	dir := t.TempDir()
	m := measurer{self: self, log: filepath.Join(dir, "output"), turn: round{0, 1}}
	s, err := m.run(t.Context(), "/bin/sh", "-c", "sync -d "+dir+"/output; sync "+dir+"/output; true")
	if err != nil || s.Syncs != 2 {
		t.Errorf("counted are %v syncs, %v", s.Syncs, err)
	}
}

func TestChildTime(t *testing.T) {
	got, err := childTime("7 (a ) b) S 1 7 7 0 -1 4194560 1 2 3 4 11 12 13 14 20 0 1 0 100\n")
	if err != nil || got != 270*time.Millisecond {
		t.Errorf("the children took %v, %v", got, err)
	}
	if _, err := childTime("7 (a"); err == nil {
		t.Error("half a line is taken")
	}
}

// Two rounds of two programs are drawn as two bars, in a picture that is well-formed.
func TestDrawBars(t *testing.T) {
	var r report
	for _, name := range []string{pgxName, peerName} {
		for i := range 2 {
			r.add(backup, in(name, "lz4", round{i + 1, 2}), sample{CPU: 1, Wall: float64(i + 1)})
		}
	}
	r.add(loadManifest, in(pgxName, "", round{1, 1}), sample{CPU: 1, Wall: 1}) // nothing to compare with
	r.summarize()
	name := filepath.Join(t.TempDir(), barsName)
	if err := r.draw(name); err != nil {
		t.Fatal(err)
	}
	if n := elements(t, name, "rect"); n != 2 {
		t.Errorf("%d bars are drawn", n)
	}
}

// elements counts those of a name in an XML file.
func elements(t *testing.T, file, name string) (n int) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == name {
			n++
		}
	}
}

const work = `i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done`

// The processor time of children counts, and of those nobody waits for.
func TestMeasureTree(t *testing.T) {
	alone := leastWork(t)
	three, code, err := measureTree([]string{"/bin/sh", "-c", "(" + work + ")& (" + work + ")& sh -c '" + work + "'; exit 7"})
	if err != nil || code != 7 {
		t.Fatalf("exit code %d, %v", code, err)
	}
	if alone <= 0 || three.CPU < 2*alone || three.RSS < 100_000 {
		t.Errorf("one took %f s, three %+v", alone, three)
	}
}

// What a program and its children read counts.
func TestMeasureRead(t *testing.T) {
	const size = 3 << 20
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	s, code, err := measureTree([]string{"/bin/sh", "-c", "wc -c <" + name + " >&2; cat " + name + " >/dev/null & exec dd bs=4k of=/dev/null if=" + name})
	if err != nil || code != 0 || s.Read < 2*size || s.Read > 3*size+1<<20 {
		t.Errorf("of %d bytes %d are read, exit code %d, %v", size, s.Read, code, err)
	}
}

// leastWork gives the processor time of work on a machine that does nothing else, as far as
// that can be known.
func leastWork(t *testing.T) float64 {
	t.Helper()
	least := math.Inf(1)
	for range 3 {
		s, code, err := measureTree([]string{"/bin/sh", "-c", work})
		if err != nil || code != 0 {
			t.Fatalf("exit code %d, %v", code, err)
		}
		least = min(least, s.CPU)
	}
	return least
}

// What a service has started counts, whoever its parent is, and is waited for.
func TestGroup(t *testing.T) {
	g, err := newGroup(t.Context())
	if err != nil {
		t.Skip(err) // only root can make one, and not in every container
	}
	alone := leastWork(t)
	service := exec.Command("/bin/sh", "-c", "(setsid sh -c '"+work+"; "+work+"' &) ; echo; exec sleep 1000")
	started, err := service.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.start(service); err != nil {
		t.Fatal(err)
	}
	if _, err := started.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	got, err := g.cpu(t.Context())
	if err != nil || got < alone {
		t.Errorf("twice the work took %f s and once %f s, %v", got, alone, err)
	}
	if err := g.stop(service); err != nil {
		t.Error(err)
	}
	if err := g.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(g.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", g.dir, err)
	}
}

func TestMissingProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgx")
	_, err := parse([]string{"-pgx", path})
	if err == nil || err.Error() != "program '"+path+"' is missing: run 'make build', or give its path with -pgx" {
		t.Error(err)
	}
	if _, err := parse([]string{"-parts", "remote,far"}); err == nil || !strings.Contains(err.Error(), "'far'") {
		t.Error(err)
	}
	if _, err := parse([]string{"-corpus", "text,video"}); err == nil || !strings.Contains(err.Error(), "'video'") {
		t.Error(err)
	}
	if _, err := parse([]string{"-codecs", "lz4,rar"}); err == nil || !strings.Contains(err.Error(), "'rar'") {
		t.Error(err)
	}
}

// About a hundredth of the files is spoilt, other ones in each round.
func TestDamage(t *testing.T) {
	const files, page = 3000, 8192
	dir := filepath.Join(t.TempDir(), "base", "5")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	sound := make([]byte, page)
	spoilt := map[string]int{}
	for round := range 3 {
		for i := range files {
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), sound, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := damage(filepath.Dir(filepath.Dir(dir)), round); err != nil {
			t.Fatal(err)
		}
		n := 0
		for i := range files {
			name := filepath.Join(dir, strconv.Itoa(i))
			if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, sound) {
				spoilt[name]++
				n++
			}
		}
		if n < files/200 || n > files/50 {
			t.Errorf("in round %d %d of %d files are spoilt", round, n, files)
		}
	}
	for name, times := range spoilt {
		if times == 3 {
			t.Errorf("%s is spoilt in every round", name)
		}
	}
}

// About a hundredth of the pages is spoilt, other ones in each round, and nothing else.
func TestDamagePages(t *testing.T) {
	const pages, page = 5000, 8192
	name := filepath.Join(t.TempDir(), "base", "5", "1")
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	always := 0
	spoilt := map[int]int{}
	for round := range 3 {
		if err := os.WriteFile(name, make([]byte, pages*page), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := damagePages(filepath.Dir(filepath.Dir(filepath.Dir(name))), round); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(name)
		if err != nil || len(b) != pages*page {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		n := 0
		for i := range pages {
			if !bytes.Equal(b[i*page:(i+1)*page], make([]byte, page)) {
				n++
				if spoilt[i]++; spoilt[i] == 3 {
					always++
				}
			}
		}
		if n < pages/200 || n > pages/50 {
			t.Errorf("in round %d %d of %d pages are spoilt", round, n, pages)
		}
	}
	if always > 2 {
		t.Errorf("%d pages are spoilt in every round", always)
	}
}

// PostgreSQL sees what the command ends with, and the log has each run.
func TestTime(t *testing.T) {
	log := filepath.Join(t.TempDir(), "times")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{"0", "7"} {
		cmd := exec.Command(self, timeArg, log, "--", "/bin/sh", "-c", "exit "+code)
		cmd.Env = append(os.Environ(), asProgram+"=y")
		_ = cmd.Run() // what it ends with is the next line's
		if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != code {
			t.Errorf("ended with %s, not with %s", got, code)
		}
	}
	times, err := readTimes(log)
	if err != nil || len(times) != 2 || times[0].code != 0 || times[1].code != 7 || times[0].seconds <= 0 {
		t.Errorf("read %v, %v", times, err)
	}
}

// asProgram in the environment makes the test the program itself. What begins with PG would not
// reach what account.command runs, and the test would run itself again and again.
const asProgram = "BENCH_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestRecoveryTime(t *testing.T) {
	const begin = "12.250 LOG:  database system was shut down at 2026-11-21 09:13:36 UTC\n"
	const end = "14.000 LOG:  archive recovery complete\n"
	for _, test := range []struct {
		log      string
		want     float64
		complete bool
	}{{"", 0, false}, {begin, 0, false}, {"11.0 LOG:  listening\n" + begin + "13.0 LOG:  redo starts at 0/A0000A0\n" + end, 1.75, true}} {
		if got, complete, err := recoveryTime(test.log); got != test.want || complete != test.complete || err != nil {
			t.Errorf("of %q: %v, %v, %v", test.log, got, complete, err)
		}
	}
}

func TestScale(t *testing.T) {
	for _, test := range []struct{ most, step, end float64 }{
		{0, 0.2, 1}, {1, 0.2, 1}, {7, 2, 8}, {40, 10, 40}, {61.3, 20, 80}, {200, 50, 200}, {5.01, 1, 6},
	} {
		if step, end := scale(test.most); math.Abs(step-test.step) > 1e-9 || math.Abs(end-test.end) > 1e-9 {
			t.Errorf("to %v: marks every %v up to %v", test.most, step, end)
		}
	}
}

// The picture is well-formed and shows, of three rounds, the one in the middle.
func TestDraw(t *testing.T) {
	f := findings{Segments: 3}
	for _, wait := range []float64{9, 3, 1} {
		for _, load := range []string{backlogCurve, steadyCurve} {
			f.addCurve(load, pgxName, curve{{0, 3}, {wait, 1}, {wait + 1, 0}})
			f.addCurve(load, peerName, curve{{0, 3}, {2 * wait, 0}})
		}
	}
	if got := middle(f.Curves[backlogCurve][pgxName]); got.end() != 4 || got.area() != 10 || got.most() != 3 {
		t.Errorf("in the middle is %v", got)
	}
	name := filepath.Join(t.TempDir(), pictureName)
	if err := f.draw(name); err != nil {
		t.Fatal(err)
	}
	if lines := elements(t, name, "polyline"); lines != 4 {
		t.Errorf("%d lines are drawn", lines)
	}
}
