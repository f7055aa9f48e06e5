package sshd_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/protocol/sshd"
)

func TestMaxLogins(t *testing.T) {
	key := signer(t)
	l := start(t, sshd.Config{Serve: echo, MaxLogins: 3, MaxLoginsFrom: 2}, grant(t, "archive main", key.PublicKey(), "db1"))
	from := func(ip string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		nc, err := d.Dial("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		return nc
	}
	// admitted says whether the server speaks; it does before the client says anything.
	admitted := func(nc net.Conn) bool {
		_, err := nc.Read(make([]byte, 7))
		return err == nil
	}
	one, two := from("127.0.0.2"), from("127.0.0.2")
	if !admitted(one) || !admitted(two) {
		t.Fatal("refused within the limits")
	}
	if admitted(from("127.0.0.2")) {
		t.Error("more than two from one address")
	}
	if !admitted(from("127.0.0.3")) {
		t.Error("another address is refused too")
	}
	if admitted(from("127.0.0.4")) {
		t.Error("more than three")
	}
	_ = one.Close()
	eventually(t, "the place of one that went", func() bool { return admitted(from("127.0.0.4")) })
	_ = two.Close()
	eventually(t, "a place to log in", func() bool {
		c, err := l.dial(key)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func TestSilentClientIsCutOff(t *testing.T) {
	for _, says := range []string{"", "SSH-2.0-slow\r\n", "GET / HTTP/1.0\r\n\r\n", strings.Repeat("x", 1000)} {
		l := start(t, sshd.Config{Serve: echo, LoginTime: 50 * time.Millisecond})
		nc, err := net.Dial("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.WriteString(nc, says)
			_, _ = io.Copy(io.Discard, nc)
		}()
		within(t, "end of a connection that says '"+says+"'", done)
		_ = nc.Close()
	}
}

func TestMaxSessions(t *testing.T) {
	one, two := signer(t), signer(t)
	l := start(t, sshd.Config{Serve: echo, MaxSessions: 2}, grant(t, "archive main", one.PublicKey(), "db1"), grant(t, "archive main", two.PublicKey(), "db2"))
	a, b, other := l.connect(t, one), l.connect(t, one), l.connect(t, two)
	first := mustExec(t, a)
	mustExec(t, b)
	for _, c := range []*ssh.Client{a, b} {
		_, err := execOn(c)
		var open *ssh.OpenChannelError
		if !errors.As(err, &open) || open.Reason != ssh.ResourceShortage || open.Message != "key 'db1' has 2 sessions already" {
			t.Errorf("error %v", err)
		}
	}
	mustExec(t, other)
	// A place is free as soon as the client knows that a session has ended.
	for range 50 {
		if err := first.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		first.wait()
		first = mustExec(t, b)
	}
	third, err := l.dial(one)
	if err == nil {
		t.Cleanup(func() { _ = third.Close() })
		within(t, "end of the third connection", gone(third))
	}
	eventually(t, "log", func() bool { return strings.Contains(l.log.String(), "refused: key 'db1' has 2 connections already") })
}

func TestRequestsBeforeExecAreLimited(t *testing.T) {
	const limit = 64
	key := signer(t)
	l := start(t, sshd.Config{Serve: echo}, grant(t, "archive main", key.PublicKey(), "db1"))
	// after is a session that so many requests have gone to.
	after := func(n int) ssh.Channel {
		t.Helper()
		channel, requests, err := l.connect(t, key).OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(requests)
		for i := range n {
			if ok, err := channel.SendRequest("env", true, nil); ok || err != nil {
				t.Fatalf("request %d of %d: %v, error %v", i+1, n, ok, err)
			}
		}
		return channel
	}
	exec := ssh.Marshal(struct{ Command string }{"pgx"})
	if ok, err := after(limit-1).SendRequest("exec", true, exec); !ok || err != nil {
		t.Errorf("exec after %d requests: %v, error %v", limit-1, ok, err)
	}
	channel, ended := after(limit), make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, channel)
	}()
	within(t, "end of a session with too many requests", ended)
}

func TestUnusedConnectionEnds(t *testing.T) {
	key := signer(t)
	l := start(t, sshd.Config{Serve: echo, Silence: 100 * time.Millisecond}, grant(t, "archive main", key.PublicKey(), "db1"))
	for name, prepare := range map[string]func(c *ssh.Client){
		"no channel":     func(*ssh.Client) {},
		"ended channel":  func(c *ssh.Client) { _ = mustExec(t, c).Close() },
		"channel unused": func(c *ssh.Client) { _, _, _ = c.OpenChannel("session", nil) },
	} {
		c := l.connect(t, key)
		prepare(c)
		within(t, name, gone(c))
	}
	used := l.connect(t, key)
	cmd := mustExec(t, used)
	within(t, "a connection that began later", gone(l.connect(t, key)))
	cmd.line(t, "still there\n")
}

// mute is a client that stops to send, and to answer what it is sent.
type mute struct {
	net.Conn
	on chan struct{}
}

func (m mute) Write(p []byte) (int, error) {
	select {
	case <-m.on:
		return len(p), nil
	default:
		return m.Conn.Write(p)
	}
}

func TestCloseDoesNotDependOnTheClient(t *testing.T) {
	key := signer(t)
	ended := make(chan error, 2)
	m := mute{on: make(chan struct{})}
	l := start(t, sshd.Config{
		Silence: 100 * time.Millisecond,
		Serve: func(_ context.Context, tr io.ReadWriteCloser, _ sshd.Peer) {
			_, _ = io.ReadFull(tr, make([]byte, 1))
			var wg sync.WaitGroup
			wg.Go(func() {
				_, err := io.Copy(tr, neverEnding{}) // until the window is full
				ended <- err
			})
			wg.Go(func() {
				_, err := tr.Read(make([]byte, 1))
				ended <- err
			})
			<-m.on
			if err := tr.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			wg.Wait()
		},
	}, grant(t, "archive main", key.PublicKey(), "db1"))
	var err error
	if m.Conn, err = net.Dial("tcp", l.addr); err != nil {
		t.Fatal(err)
	}
	c, err := l.over(m, key)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := mustExec(t, c).Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	close(m.on)
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("a call on a closed transport succeeded")
		}
	}
	within(t, "end of the connection", gone(c))
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

func TestRefusalsAreRationed(t *testing.T) {
	var now struct {
		sync.Mutex
		time.Time
	}
	l := start(t, sshd.Config{Serve: echo, Now: func() time.Time {
		now.Lock()
		defer now.Unlock()
		return now.Time
	}})
	now.Lock()
	now.Time = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now.Unlock()
	try := func() {
		if _, err := l.dial(signer(t)); err == nil {
			t.Fatal("logged in")
		}
	}
	lines := func() int { return strings.Count(l.log.String(), "not granted anything") }
	for i := range 25 {
		try()
		eventually(t, "log", func() bool { return lines() == min(i+1, 20) })
	}
	now.Lock()
	now.Time = now.Add(time.Hour)
	now.Unlock()
	// The server logs after the client knows: some of the first 25 may come after the hour.
	eventually(t, "a line with the number of those left out", func() bool {
		try()
		return strings.Contains(l.log.String(), "refusals before it that were not logged)")
	})
}

// More channels than anybody will answer, left as they are, must not keep Serve from ending.
func TestFloodOfChannels(t *testing.T) {
	key := signer(t)
	l := start(t, sshd.Config{Serve: echo}, grant(t, "archive main", key.PublicKey(), "db1"))
	c := l.connect(t, key)
	var (
		wg              sync.WaitGroup
		accepted, other atomic.Int32
	)
	for range 500 {
		wg.Go(func() {
			_, _, err := c.OpenChannel("session", nil)
			var open *ssh.OpenChannelError
			switch {
			case err == nil:
				accepted.Add(1)
			case !errors.As(err, &open) || open.Reason != ssh.ResourceShortage:
				other.Add(1)
			}
		})
	}
	wg.Wait()
	if accepted.Load() != 64 || other.Load() != 0 {
		t.Errorf("%d accepted, %d refused for another reason", accepted.Load(), other.Load())
	}
	l.stop()
	within(t, "end of Serve", l.done)
}
