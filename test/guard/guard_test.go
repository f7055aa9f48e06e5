package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/cpu"
)

var update = flag.Bool("update", false, "store what is measured as what is compared with")

// cost is what a run of a path takes.
type cost struct {
	instructions int // of the process, not of the kernel
	allocs       int // objects
	bytes        int // allocated
}

// TestGuard fails when a path takes more than it did when the costs were stored. A change that is
// worth it, another compiler and faster code store theirs with -update.
func TestGuard(t *testing.T) {
	program := build(t)
	stored, version := readCosts(t)
	if len(stored) != len(paths) && !*update {
		t.Errorf("%s has %d paths, there are %d", costsFile(), len(stored), len(paths))
	}
	got := allocations(t, program)
	t.Run("allocations", func(t *testing.T) {
		for _, p := range paths {
			was, is := stored[p.name], got[p.name]
			switch _, known := stored[p.name]; {
			case *update:
			case !known:
				t.Errorf("%s is not in %s", p.name, costsFile())
			case is.allocs > was.allocs+was.allocs/50 || is.bytes > was.bytes+was.bytes/10+1024:
				t.Errorf("%s allocates %d objects of %d bytes instead of %d of %d", p.name, is.allocs, is.bytes, was.allocs, was.bytes)
			}
		}
	})
	t.Run("instructions", func(t *testing.T) {
		switch {
		case *update:
		case testing.Short():
			t.Skip("not counted: it takes some 15 s")
		case version != runtime.Version():
			t.Skipf("not compared: they are stored for %s, this is %s", version, runtime.Version())
		case runtime.GOARCH == "amd64" && !(cpu.X86.HasAVX2 && cpu.X86.HasAES):
			t.Skip("not compared: they are stored for processors with AVX2 and AES")
		}
		for i, n := range instructions(t, program) {
			p := paths[i]
			n /= p.runs
			is, was := got[p.name], stored[p.name].instructions
			is.instructions = n
			got[p.name] = is
			switch {
			case *update || was == 0:
			case n > was+was/20:
				t.Errorf("%s takes %d instructions instead of %d: %+.1f %%", p.name, n, was, percent(n, was))
			default:
				t.Logf("%-20s %10d %+.1f %%", p.name, n, percent(n, was))
			}
		}
	})
	if *update && !t.Failed() {
		writeCosts(t, got)
	}
}

func percent(is, was int) float64 { return 100 * float64(is-was) / float64(was) }

// build builds the guard as pgx itself is built, whatever this test is run with: the race detector
// changes what is measured.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "guard")
	cmd := exec.Command("go", "build", "-trimpath", "-o", program, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// run runs the guard, by another program perhaps, and gives its lines by their first field.
func run(t *testing.T, args ...string) map[string][]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = "../.."
	// callgrind gives up when a signal arrives while another is handled.
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%.4000s", args[0], err, &stderr)
	}
	lines := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		lines[fields[0]] = fields
	}
	return lines
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// allocations gives the least of three times: what the runtime starts a thread with counts too, if it
// happens to do so just then.
func allocations(t *testing.T, program string) map[string]cost {
	t.Helper()
	costs := make(map[string]cost)
	for round := range 3 {
		for name, fields := range run(t, program) {
			runs := number(t, fields[1])
			is := cost{allocs: number(t, fields[2]) / runs, bytes: number(t, fields[3]) / runs}
			if least := costs[name]; round > 0 {
				is = cost{allocs: min(is.allocs, least.allocs), bytes: min(is.bytes, least.bytes)}
			}
			costs[name] = is
		}
	}
	return costs
}

// instructions counts those of all runs of each path. Valgrind does it everywhere, while the counters of
// the processor are not to be had in most virtual machines, and it shows programs the same
// processor whatever machine it runs on.
func instructions(t *testing.T, program string) []int {
	t.Helper()
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		if os.Getenv("PGX_TEST_SHORT") != "" && !*update {
			t.Skip("not counted: valgrind is not installed")
		}
		t.Fatal("valgrind is not installed: test/setup.sh installs it; with PGX_TEST_SHORT=1 nothing is counted")
	}
	out := filepath.Join(t.TempDir(), "callgrind")
	run(t, valgrind, "-q", "--tool=callgrind", "--dump-before=main.mark", "--callgrind-out-file="+out, program)
	var counts []int
	for i := range paths {
		// Each call of mark ends a part: first comes what is before a path, then the path.
		part, err := os.ReadFile(fmt.Sprint(out, ".", 2*i+2))
		if err != nil {
			t.Fatal(err)
		}
		_, total, found := bytes.Cut(part, []byte("\ntotals: "))
		if !found {
			t.Fatalf("part %d has no total", 2*i+2)
		}
		counts = append(counts, number(t, string(bytes.TrimSpace(total))))
	}
	return counts
}

func costsFile() string { return "testdata/" + runtime.GOARCH + ".txt" }

const costsHead = "# What a run of each path of the guard takes: instructions, allocated objects, allocated bytes.\n" +
	"# go test ./test/guard -update writes it.\n"

// readCosts gives what is stored, and the version of Go it was measured with.
func readCosts(t *testing.T) (costs map[string]cost, version string) {
	t.Helper()
	text, err := os.ReadFile(costsFile())
	if *update && errors.Is(err, fs.ErrNotExist) {
		return nil, ""
	} else if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("nothing is stored for %s; -update does it", runtime.GOARCH)
	} else if err != nil {
		t.Fatal(err)
	}
	costs = make(map[string]cost)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch {
		case line[0] == '#':
		case len(fields) == 1:
			version = fields[0]
		case len(fields) == 4:
			costs[fields[0]] = cost{number(t, fields[1]), number(t, fields[2]), number(t, fields[3])}
		default:
			t.Fatalf("%s: %s", costsFile(), line)
		}
	}
	return costs, version
}

func writeCosts(t *testing.T, costs map[string]cost) {
	t.Helper()
	text := costsHead + runtime.Version() + "\n"
	for _, p := range paths {
		c := costs[p.name]
		text += fmt.Sprintf("%-20s %10d %6d %9d\n", p.name, c.instructions, c.allocs, c.bytes)
	}
	if err := os.WriteFile(costsFile(), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}
