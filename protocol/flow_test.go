package protocol_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgx-backup/pgx/protocol"
)

// counted counts what has been read of it.
type counted struct {
	io.Reader
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// session connects a client with a server that has one call.
func session(t *testing.T, near, far protocol.Transport, h protocol.Handler) (s *protocol.Session, end func()) {
	t.Helper()
	served := make(chan error, 1)
	go func() {
		served <- protocol.Serve(t.Context(), far, serverConfig, func(context.Context, protocol.Hello) (protocol.Service, error) {
			return protocol.Service{Calls: map[string]protocol.Handler{"take": h}}, nil
		})
	}()
	s, err := protocol.Open(t.Context(), near, protocol.Hello{}, clientConfig)
	if err != nil {
		t.Fatal(err)
	}
	return s, func() {
		t.Helper()
		_ = s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// A client does not run ahead of a call that is slow to take its data, and all of it arrives.
func TestFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan int64)
		near, far := net.Pipe()
		s, end := session(t, near, far, func(_ context.Context, c *protocol.Call) (any, error) {
			total := 0
			for n := range proceed {
				m, err := io.CopyN(io.Discard, c.In(), n)
				total += int(m)
				if err != nil {
					return nil, err
				}
			}
			n, err := io.Copy(io.Discard, c.In())
			return number{total + int(n)}, err
		})
		defer end()
		const size = 5 << 20
		src := &counted{Reader: bytes.NewReader(make([]byte, size))}
		var got number
		sent := make(chan error)
		go func() { sent <- s.Send(t.Context(), "take", nil, src, &got) }()
		for taken := int64(0); taken <= 2<<20; taken += 1 << 20 {
			synctest.Wait()
			// Two data frames, and one that waits to be sent.
			if ahead := src.n.Load() - taken; ahead < 512<<10 || ahead > 1<<20 {
				t.Errorf("with %d bytes taken the client is %d ahead", taken, ahead)
			}
			proceed <- 1 << 20
		}
		close(proceed)
		if err := <-sent; err != nil || got.N != size {
			t.Errorf("%d bytes arrived, %v", got.N, err)
		}
	})
}

// Waiting for the other side to take data ends with the context.
func TestFlowCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		proceed := make(chan bool)
		s, end := session(t, near, far, func(_ context.Context, c *protocol.Call) (any, error) {
			<-proceed
			_, err := io.Copy(io.Discard, c.In())
			return nil, err
		})
		defer end()
		ctx, cancel := context.WithCancel(t.Context())
		sent := make(chan error)
		go func() { sent <- s.Send(ctx, "take", nil, bytes.NewReader(make([]byte, 5<<20)), nil) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(proceed)
		if err := <-sent; err != context.Canceled {
			t.Error(err)
		}
		if err := s.Err(); err != nil {
			t.Errorf("the session is of no use any more: %v", err)
		}
	})
}

// distant is a connection whose bytes arrive late.
type distant struct {
	net.Conn
	bytes chan late
}

type late struct {
	p  []byte
	at time.Time
}

const distance = 50 * time.Millisecond

func newDistant(c net.Conn) *distant {
	d := &distant{c, make(chan late, 1000)}
	go func() {
		for l := range d.bytes {
			<-time.After(time.Until(l.at))
			if _, err := d.Conn.Write(l.p); err != nil {
				break
			}
		}
		_ = d.Conn.Close()
	}()
	return d
}

func (d *distant) Write(p []byte) (int, error) {
	d.bytes <- late{bytes.Clone(p), time.Now().Add(distance)}
	return len(p), nil
}

// Where the way is long more is on its way.
func TestFlowOfDistance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := net.Pipe()
		near, far := newDistant(x), newDistant(y)
		defer close(near.bytes)
		defer close(far.bytes)
		s, end := session(t, near, far, func(_ context.Context, c *protocol.Call) (any, error) {
			_, err := io.Copy(io.Discard, c.In())
			return nil, err
		})
		defer end()
		begun := time.Now()
		if err := s.Send(t.Context(), "take", nil, bytes.NewReader(make([]byte, 64<<20)), nil); err != nil {
			t.Fatal(err)
		}
		// It would be 128 trips there and back with what is enough for the next rack.
		if took := time.Since(begun); took > 20*distance*2 {
			t.Errorf("64 MiB took %s", took)
		}
	})
}
