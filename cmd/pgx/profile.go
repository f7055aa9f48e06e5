//go:build profile

package main

import (
	"fmt"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
)

// profileVariable names a directory. Each process that finds it in its environment writes a CPU
// profile of its whole life there, to a file that has the command's name and a number. Only a
// program built with -tags profile knows of it; see docs/performance.md.
const profileVariable = "PGX_PROFILE"

// endProfile writes what was sampled. It is begun before main, whatever main goes on to do; who
// calls it second waits for the first.
var endProfile = sync.OnceFunc(beginProfile())

// exit ends the program.
func exit(code int) {
	endProfile()
	os.Exit(code)
}

// beginProfile gives the function that ends the profile.
func beginProfile() (end func()) {
	dir := os.Getenv(profileVariable)
	if dir == "" {
		return func() {}
	}
	f, err := os.CreateTemp(dir, profileName(os.Args[1:])+"-*.pprof")
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
		os.Exit(1)
	}
	return func() {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "profile:", err)
		}
	}
}

// profileName gives the command among the arguments: the first that is no option. A value that
// is not joined to its option by '=' passes for one, which only makes for an odd name.
func profileName(args []string) string {
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			return strings.NewReplacer("/", "-", ":", "-", "*", "-").Replace(a)
		}
	}
	return "pgx"
}
