//go:build linux

package main

import (
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

// The second round ran on a busy machine: it takes both programs longer and must not
// move the ratio.
func TestRatioIsThatOfEachRound(t *testing.T) {
	var r report
	for _, round := range []float64{1, 10, 1.1} {
		r.add(restore, "lz4", pgxName, sample{Wall: round, CPU: 3, RSS: 10 << 20})
		r.add(restore, "lz4", peerName, sample{Wall: 2 * round, CPU: 2, RSS: 40 << 20})
		r.add(backup, "lz4", peerName, sample{Wall: 1})
		r.add(backup, "lz4", pgxName, sample{Wall: 1})
	}
	r.summarize()
	if r.Rows[0].Operation != backup || r.Rows[1].Operation != restore {
		t.Errorf("rows are %v and %v", r.Rows[0], r.Rows[1])
	}
	got := r.Rows[1]
	if want := (ratio{Wall: 0.5, Low: 0.5, High: 0.5, CPU: 1.5, RSS: 0.25}); got.Ratio != want || got.Median[pgxName].Wall != 1.1 {
		t.Errorf("ratios are %+v, medians %+v", got.Ratio, got.Median)
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
	if _, err := parse([]string{"-codecs", "lz4,rar"}); err == nil || !strings.Contains(err.Error(), "'rar'") {
		t.Error(err)
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

// asProgram in the environment makes the test the program itself.
const asProgram = "PGX_BENCH_PROGRAM"

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
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	lines := 0
	for d := xml.NewDecoder(file); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "polyline" {
			lines++
		}
	}
	if lines != 4 {
		t.Errorf("%d lines are drawn", lines)
	}
}
