// Package tcp is what both ends of an SSH connection do with the network connection below it.
package tcp

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// LimitSilence makes the kernel give up a connection whose peer does not acknowledge what was sent, or
// takes nothing, for d, which the kernel counts in milliseconds. Else a cut cable is noticed after a
// quarter of an hour. It does nothing to what is not TCP, or if d is 0 or less.
func LimitSilence(nc net.Conn, d time.Duration) error {
	conn, ok := nc.(*net.TCPConn)
	if !ok || d <= 0 {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
	return errors.Join(err, serr)
}

const (
	// gatherSize is about how much goes through one system call, in bytes: four packets of SSH.
	gatherSize = 128 << 10

	// patience is how long what is held back waits for more.
	patience = time.Millisecond
)

// Conn is a connection that the SSH library uses. That writes and reads packet by packet, with one
// and two system calls for each; Conn gathers them. Close does not wait: what is held back is lost.
type Conn struct {
	net.Conn
	in *bufio.Reader

	mu    sync.Mutex
	held  int // Holds that have not ended
	out   []byte
	armed bool // timer runs
	timer *time.Timer
	err   error // of what was held back; nothing can be written after it
}

// NewConn gathers what is read from nc, and what is written under Hold.
func NewConn(nc net.Conn) *Conn {
	c := &Conn{Conn: nc, in: bufio.NewReaderSize(nc, gatherSize)}
	c.timer = time.AfterFunc(time.Hour, c.late)
	c.timer.Stop()
	return c
}

// Read may be called by one goroutine at a time.
func (c *Conn) Read(p []byte) (int, error) { return c.in.Read(p) }

// Write sends p at once, or soon if there is a Hold.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.held == 0 && len(c.out) == 0 {
		return c.Conn.Write(p)
	}
	c.out = append(c.out, p...)
	if c.held == 0 || len(c.out) >= gatherSize {
		return len(p), c.flush()
	}
	if !c.armed {
		c.armed = true
		c.timer.Reset(patience)
	}
	return len(p), nil
}

// Hold lets what is written wait for more, but not for long: the writer may be waiting for an
// answer to it. It ends with Release.
func (c *Conn) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held++
}

// Release ends a Hold. When it was the last all that was held back is on its way, or an error says why
// not.
func (c *Conn) Release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held--; c.held > 0 {
		return c.err
	}
	return c.flush()
}

// late sends what has waited long enough.
func (c *Conn) late() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
	_ = c.flush()
}

// flush sends what was held back. Conn.mu is held.
func (c *Conn) flush() error {
	if len(c.out) > 0 && c.err == nil {
		_, c.err = c.Conn.Write(c.out)
		c.out = c.out[:0]
	}
	return c.err
}
