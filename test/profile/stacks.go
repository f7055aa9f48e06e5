//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// stack is where a program was when it was sampled, the outermost function first.
type stack struct {
	frames []string
	time   time.Duration // of all samples
}

// readProfiles gives the stacks of CPU profiles, below the name of the process they are of.
func readProfiles(ctx context.Context, process string, files []string) ([]stack, error) {
	out, err := exec.CommandContext(ctx, "go", append([]string{"tool", "pprof", "-traces", "-unit=ns"}, files...)...).Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go tool pprof: %w", err)
	}
	stacks, err := parseTraces(out)
	for i := range stacks {
		stacks[i].frames = append([]string{process}, stacks[i].frames...)
	}
	return stacks, err
}

// parseTraces reads what `go tool pprof -traces -unit=ns` prints: below each ruler a time with the
// innermost function, and its callers in the lines that follow.
func parseTraces(text []byte) (all []stack, err error) {
	var now *stack
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	begun := false
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		switch {
		case strings.HasPrefix(line, "-----------+"):
			begun, now = true, nil
			continue
		case !begun || line == "":
			continue // what the profile is of
		}
		if now == nil {
			value, rest, ok := strings.Cut(line, " ")
			d, err := time.ParseDuration(value)
			if err != nil || !ok {
				return nil, fmt.Errorf("'%s' does not begin with a time", line)
			}
			all = append(all, stack{time: d})
			now, line = &all[len(all)-1], strings.TrimSpace(rest)
		}
		if name := strings.TrimSuffix(line, " (inline)"); !plumbing.MatchString(name) {
			now.frames = append([]string{name}, now.frames...)
		}
	}
	if !begun {
		return nil, fmt.Errorf("there are no samples in\n%s", text)
	}
	return all, lines.Err()
}

// plumbing are functions that every goroutine or every system call goes through.
var plumbing = regexp.MustCompile(`^(runtime\.(goexit|main)|main\.main|internal/poll\..*|.*\.ignoringEINTR.*|(syscall|.*/syscall/linux|.*/unix)\.(raw|Raw)?[sS]yscall\w*)$`)

// module is ours.
const module = "github.com/pgx-backup/pgx/"

// pathOf is the path of the package that is not of the standard library, but for the last part.
var pathOf = regexp.MustCompile(`[\w-]+\.[a-z]+/(?:[\w.~-]+/)*`)

// shorten gives a function's name as a picture shows it: packages of ours without the
// module, others without the path before them, and no parameters of types.
func shorten(name string) string {
	if from, to := strings.Index(name, "[go.shape"), strings.LastIndex(name, "]"); from >= 0 && to > from {
		name = name[:from] + "[…" + name[to:]
	}
	return pathOf.ReplaceAllLiteralString(strings.ReplaceAll(name, module, ""), "")
}

// node is a function below those that have called it.
type node struct {
	name  string
	time  time.Duration // in it and in what it has called
	below []*node       // in the order they were seen first
}

// graph adds stacks up. Its root has no name.
func graph(stacks []stack) *node {
	root := &node{}
	for _, s := range stacks {
		at := root
		at.time += s.time
		for _, name := range s.frames {
			at = at.child(name)
			at.time += s.time
		}
	}
	return root
}

func (n *node) child(name string) *node {
	for _, c := range n.below {
		if c.name == name {
			return c
		}
	}
	c := &node{name: name}
	n.below = append(n.below, c)
	return c
}
