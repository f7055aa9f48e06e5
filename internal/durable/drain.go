package durable

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Drain takes a file that is written from its beginning to its end to the disk
// while it is written, a window at a time, so that the final sync has little left to do. Unless
// Keep is set it lets the page cache go of what has arrived there: what is written next gets
// the same few pages again, which takes half the CPU on a machine of one's own and much
// less on a virtual one, whose host has to find memory for each page that was never
// used. Nor do the pages of others have to give way.
type Drain struct {
	File *os.File
	Keep bool  // somebody will read it soon
	at   int64 // bytes written
}

// drainWindow is how many bytes are on their way while as many are written.
const drainWindow = 8 << 20

// Wrote says that n more bytes were written. An error means that some did not reach the disk,
// and that a sync would not tell so any more.
func (d *Drain) Wrote(n int) error {
	before := d.at / drainWindow
	d.at += int64(n)
	for w := before; w < d.at/drainWindow; w++ {
		if err := d.window(w); err != nil {
			return err
		}
	}
	return nil
}

// window sends a window on its way and awaits the one before.
func (d *Drain) window(n int64) error {
	started, err := startSync(d.File, n*drainWindow, drainWindow)
	if !started || n == 0 {
		return err
	}
	// This tells, once, what became of the content: any error is that of a sync.
	fd, last := int(d.File.Fd()), (n-1)*drainWindow
	err = unix.SyncFileRange(fd, last, drainWindow,
		unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	if !d.Keep {
		_ = unix.Fadvise(fd, last, drainWindow, unix.FADV_DONTNEED) // an advice
	}
	return err
}

// startSync sends a part of a file on its way to the disk, all from offset on if size is 0. It is not
// started where that cannot be asked for: nothing is lost then, it only comes later.
func startSync(file *os.File, offset, size int64) (started bool, err error) {
	err = unix.SyncFileRange(int(file.Fd()), offset, size, unix.SYNC_FILE_RANGE_WRITE)
	if errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.ESPIPE) {
		return false, nil
	}
	return err == nil, err
}
