// Command guard runs the hot paths of pgx and says what a run of each allocates. Its test
// counts the instructions as well, and compares both with what is stored: neither depends, as
// time does, on what else the machine has to do. It is run in the root of the project.
//
//	go run ./test/guard               what each path allocates
//	go test ./test/guard              compare with what is stored
//	go test ./test/guard -update      store what is measured
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
)

func main() {
	if err := measure(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "guard:", err)
		os.Exit(1)
	}
}

// measure prints for each path a line: its name, how often it was run between the two calls of mark
// that belong to it, and how many objects and bytes it allocated in all of that.
func measure(ctx context.Context) error {
	// One processor and no garbage collector: nothing runs but the path, and pools keep what they have.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	tmp, err := os.MkdirTemp("", "pgx-guard")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, p := range paths {
		if err := p.measure(ctx, filepath.Join(tmp, p.name)); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func (p path) measure(ctx context.Context, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run, err := p.prepare(ctx, dir)
	if err != nil {
		return err
	}
	collect()
	// What is made at the first use, and then kept, does not count.
	if err := run(); err != nil {
		return err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	mark()
	for range p.runs {
		if err := run(); err != nil {
			return err
		}
	}
	mark()
	runtime.ReadMemStats(&after)
	_, err = fmt.Println(p.name, p.runs, after.Mallocs-before.Mallocs, after.TotalAlloc-before.TotalAlloc)
	return err
}

// collect collects garbage, and waits for what that calls. Afterwards the one processor is given back only when all
// of it has been: what is spare would else be let go of, or watched anew, in some measurements and not in others.
func collect() {
	called := make(chan struct{})
	runtime.AddCleanup(new([64]byte), func(c chan struct{}) { close(c) }, called)
	runtime.GC()
	<-called
}

// mark is where valgrind begins to count anew.
//
//go:noinline
func mark() {}
