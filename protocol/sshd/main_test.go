package sshd_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/protocol/sshd"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("PGX_TEST_HOST_KEY"); path != "" {
		os.Exit(printHostKey(path))
	}
	goleak.VerifyTestMain(m)
}

func signer(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// grant makes a grant from "archive main" and a key.
func grant(t testing.TB, what string, key ssh.PublicKey, name string) sshd.Grant {
	t.Helper()
	line := what + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " " + name
	g, err := sshd.ParseGrant(line)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// output is a log that goroutines write and a test reads.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

type listener struct {
	*sshd.Server
	addr string
	host ssh.PublicKey
	log  *output
	stop context.CancelFunc
	done chan struct{} // Serve has returned
}

func start(t testing.TB, c sshd.Config, grants ...sshd.Grant) *listener {
	t.Helper()
	l := &listener{log: &output{}, done: make(chan struct{})}
	c.HostKey = signer(t)
	l.host = c.HostKey.PublicKey()
	c.Log = slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	l.Server = sshd.New(c)
	if err := l.SetGrants(grants); err != nil {
		t.Fatal(err)
	}
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.addr = nl.Addr().String()
	var ctx context.Context
	ctx, l.stop = context.WithCancel(context.Background())
	go func() {
		defer close(l.done)
		if err := l.Serve(ctx, nl); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		l.stop()
		<-l.done
	})
	return l
}

func (l *listener) dial(key ssh.Signer) (*ssh.Client, error) {
	nc, err := net.Dial("tcp", l.addr)
	if err != nil {
		return nil, err
	}
	return l.over(nc, key)
}

func (l *listener) over(nc net.Conn, key ssh.Signer) (*ssh.Client, error) {
	c, channels, requests, err := ssh.NewClientConn(nc, l.addr, &ssh.ClientConfig{
		User: "anybody", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(l.host),
	})
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

func (l *listener) connect(t testing.TB, key ssh.Signer) *ssh.Client {
	t.Helper()
	c, err := l.dial(key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// command is a channel on which a command was asked for.
type command struct {
	ssh.Channel
	requests <-chan *ssh.Request
}

func execOn(c *ssh.Client) (*command, error) {
	channel, requests, err := c.OpenChannel("session", nil)
	if err != nil {
		return nil, err
	}
	ok, err := channel.SendRequest("exec", true, ssh.Marshal(struct{ Text string }{"rm -rf /"}))
	if err == nil && !ok {
		err = errors.New("exec refused")
	}
	return &command{channel, requests}, err
}

func mustExec(t testing.TB, c *ssh.Client) *command {
	t.Helper()
	cmd, err := execOn(c)
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

// wait gives the exit status.
func (c *command) wait() string {
	status := "none"
	for r := range c.requests {
		if r.Type == "exit-status" {
			status = fmt.Sprint(r.Payload)
		}
	}
	return status
}

// line sends a line and reads what comes back.
func (c *command) line(t testing.TB, s string) {
	t.Helper()
	got := make([]byte, len(s))
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, got); err != nil || string(got) != s {
		t.Fatalf("got %q, error %v; want %q", got, err, s)
	}
}

func echo(_ context.Context, t io.ReadWriteCloser, _ sshd.Peer) { _, _ = io.Copy(t, t) }

func within(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("still waiting: %s", what)
	}
}

// gone is closed when the connection has ended.
func gone(c *ssh.Client) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Wait()
	}()
	return done
}

// eventually waits for what another goroutine does next and gives no sign of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(20 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("still waiting: %s", what)
		}
	}
}
