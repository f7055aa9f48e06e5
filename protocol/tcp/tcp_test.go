package tcp_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/protocol/tcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair gives both ends of a connection.
func pair(t *testing.T) (near, far net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err == nil {
		far, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// counted notes how much each write and read has moved.
type counted struct {
	net.Conn
	mu            sync.Mutex
	writes, reads []int
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes = append(c.writes, n)
	return n, err
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.reads = append(c.reads, n)
	return n, err
}

func (c *counted) written() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writes
}

const packet = 32 << 10

// write writes n packets that tell each other apart.
func write(t *testing.T, c *tcp.Conn, n int) []byte {
	var all []byte
	for i := range n {
		p := bytes.Repeat([]byte{byte(i + 1)}, packet)
		if w, err := c.Write(p); w != packet || err != nil {
			t.Fatalf("wrote %d: %v", w, err)
		}
		all = append(all, p...)
	}
	return all
}

func release(t *testing.T, c *tcp.Conn) {
	t.Helper()
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("what came is not what was written: %v", err)
	}
}

// TestGather: what is written under Hold goes in few writes, all else at once.
func TestGather(t *testing.T) {
	near, far := pair(t)
	under := &counted{Conn: near}
	c := tcp.NewConn(under)
	want := write(t, c, 2)
	if n := len(under.written()); n != 2 {
		t.Errorf("%d writes without Hold", n)
	}
	read(t, far, want)

	before := len(under.written())
	c.Hold()
	c.Hold()
	want = write(t, c, 8)
	release(t, c)
	want = append(want, write(t, c, 1)...)
	release(t, c)
	read(t, far, want)
	if n := len(under.written()) - before; n > 5 { // of 9 packets; time may be up once or twice
		t.Errorf("%d writes under Hold", n)
	}

	before = len(under.written())
	read(t, far, write(t, c, 1))
	if n := len(under.written()) - before; n != 1 {
		t.Errorf("%d writes after the last Release", n)
	}
}

// TestNotHeldBack: a writer that waits under Hold for an answer to what it wrote gets it.
func TestNotHeldBack(t *testing.T) {
	near, far := pair(t)
	c := tcp.NewConn(near)
	c.Hold()
	for range 3 {
		read(t, far, write(t, c, 1))
	}
	release(t, c)
}

// TestRead: several packets come with one read.
func TestRead(t *testing.T) {
	near, far := pair(t)
	under := &counted{Conn: near}
	c := tcp.NewConn(under)
	const header = 4
	want := bytes.Repeat([]byte("packet"), packet)
	go func() { _, _ = far.Write(want) }()
	for got := 0; got < len(want); got += header {
		read(t, c, want[got:min(got+header, len(want))])
	}
	if n := len(under.reads); n > len(want)/header/10 {
		t.Errorf("%d reads", n)
	}
}

// TestLost: who holds back learns of a lost connection, too.
func TestLost(t *testing.T) {
	near, _ := pair(t)
	c := tcp.NewConn(near)
	c.Hold()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Release(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Release gives %v", err)
	}
	if _, err := c.Write([]byte("y")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the next write gives %v", err)
	}
}

// TestLimitSilence: the kernel knows the limit, and no limit leaves its own.
func TestLimitSilence(t *testing.T) {
	near, _ := pair(t)
	for _, c := range []struct {
		limit time.Duration
		want  int
	}{{0, 0}, {1500 * time.Millisecond, 1500}} {
		if err := tcp.LimitSilence(near, c.limit); err != nil {
			t.Fatal(err)
		}
		raw, err := near.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			if got != c.want || err != nil {
				t.Errorf("limit %v: the kernel's is %d: %v", c.limit, got, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}
