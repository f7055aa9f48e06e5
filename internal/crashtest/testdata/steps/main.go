// Command steps makes the system calls that the tests of crashtest look for.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Println("error:", err)
		os.Exit(3)
	}
	fmt.Println("done")
}

func run(what, dir string) error {
	switch what {
	case "chain":
		return chain(dir)
	case "threads":
		return threads(dir)
	case "child": // a process we wait for
		cmd := exec.Command(os.Args[0], "chain", dir)
		cmd.Stdout = os.Stdout
		return cmd.Run()
	case "daemon": // and one we do not, in a session of its own
		cmd := exec.Command(os.Args[0], "chain", dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd.Start()
	case "wait": // until somebody closes our input
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	case "signals": // one that is caught and one that is not
		text, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		caught := make(chan os.Signal, 1)
		signal.Notify(caught, syscall.SIGUSR1)
		if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
			return err
		}
		fmt.Printf("%s, %s\n", text, <-caught)
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		select {}
	}
	return errors.ErrUnsupported
}

// chain writes a file as one should, relative to a root, the working directory and not.
func chain(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	if err := root.Mkdir("a", 0o700); err != nil {
		return err
	}
	f, err := root.Create("a/f.tmp")
	if err != nil {
		return err
	}
	if _, err := f.WriteString("content"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := root.Rename("a/f.tmp", "a/f"); err != nil {
		return err
	}
	a, err := root.Open("a")
	if err != nil {
		return err
	}
	if err := a.Sync(); err != nil {
		return err
	}
	if err := os.Chdir(filepath.Join(dir, "a")); err != nil {
		return err
	}
	if err := os.Link("f", "linked"); err != nil {
		return err
	}
	if err := os.Symlink("f", "soft"); err != nil {
		return err
	}
	return syscall.Unlink("linked") // os.Remove would try rmdir after an error
}

const (
	workers = 8
	rounds  = 25
)

// threads makes and removes files on many threads at once.
func threads(dir string) error {
	var all sync.WaitGroup
	failed := make([]error, workers)
	for i := range workers {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			name := filepath.Join(dir, fmt.Sprint(i))
			for range rounds {
				f, err := os.Create(name)
				if err == nil {
					err = errors.Join(f.Sync(), f.Close(), os.Remove(name))
				}
				if err != nil {
					failed[i] = err
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}
