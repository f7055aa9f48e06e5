//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"
)

// timeArg as the first argument makes this program one that PostgreSQL runs in place of a
// command, to write down how long that takes.
const timeArg = "-time"

// timeMain runs a command, adds a line to the file log, and exits as the command does.
func timeMain(log string, command []string) {
	begin := time.Now()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	took := time.Since(begin)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code, err = exit.ExitCode(), nil
		if code < 0 {
			code = 255 // by a signal
		}
	}
	if err == nil {
		err = appendLine(log, fmt.Sprintf("%.6f %d\n", took.Seconds(), code))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 255
	}
	os.Exit(code)
}

// appendLine writes at once, as others may add theirs at the same time.
func appendLine(name, line string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}

// timed is a run of a command as timeMain has written it down.
type timed struct {
	seconds float64
	code    int
}

// readTimes reads the log of timeMain. Nothing has run if there is none.
func readTimes(name string) (all []timed, err error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var one timed
		if _, err := fmt.Sscan(lines.Text(), &one.seconds, &one.code); err != nil {
			return nil, fmt.Errorf("'%s' in '%s': %w", lines.Text(), name, err)
		}
		all = append(all, one)
	}
	return all, lines.Err()
}

// shellCommand writes a timed command for PostgreSQL's configuration, which runs it by a shell.
// In the arguments %p and %f are PostgreSQL's.
func (m measurer) shellCommand(log, program string, args ...string) string {
	var b strings.Builder
	for _, word := range append([]string{m.self, timeArg, log, "--", program}, args...) {
		b.WriteString(` "` + word + `"`)
	}
	return strings.TrimPrefix(b.String(), " ")
}
