package ssh_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/sshtest"
	"github.com/pgx-backup/pgx/protocol/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a local user with a home directory, and a host.
type site struct {
	*sshtest.Server
	t    *testing.T
	home string
	host ssh.Host
	conf ssh.Config
}

// newSite gives a user whose key is let in by the server and who knows its host key.
func newSite(t *testing.T, s *sshtest.Server) *site {
	t.Helper()
	home := t.TempDir()
	x := &site{
		Server: s, t: t, home: home,
		host: ssh.Host{Name: s.Host, DefaultUser: s.User, Port: s.Port, Command: "cat", Option: "pg1-host"},
		conf: ssh.Config{Home: home, User: "local", Timeout: 20 * time.Second, Silence: 5 * time.Second},
	}
	x.write("id_ed25519", read(t, s.Key), 0o600)
	x.write("known_hosts", read(t, s.KnownHosts), 0o644)
	return x
}

// write writes a file of ~/.ssh and gives its path.
func (x *site) write(name, content string, mode os.FileMode) string {
	x.t.Helper()
	file := filepath.Join(x.home, ".ssh", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		x.t.Fatal(err)
	}
	_ = os.Remove(file) // it may not be there
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		x.t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil { // whatever the umask
		x.t.Fatal(err)
	}
	return file
}

func (x *site) remove(name string) {
	x.t.Helper()
	if err := os.Remove(filepath.Join(x.home, ".ssh", name)); err != nil {
		x.t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (x *site) client() *ssh.Client {
	c := ssh.New(x.host, x.conf)
	x.t.Cleanup(func() { _ = c.Close() })
	return c
}

// works opens a session and has it echo.
func (x *site) works() {
	x.t.Helper()
	c := x.client()
	ch, err := c.Open(x.t.Context())
	if err != nil {
		x.t.Fatal(err)
	}
	echo(x.t, ch)
	if err := ch.Close(); err != nil {
		x.t.Error(err)
	}
	if err := c.Close(); err != nil {
		x.t.Error(err)
	}
}

func echo(t *testing.T, ch *ssh.Channel) {
	t.Helper()
	if _, err := ch.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(ch).ReadString('\n'); line != "hello\n" || err != nil {
		t.Fatalf("echo gave %q, %v", line, err)
	}
}

// fails opens a session, which must fail with an error of code HostConnect that has all the parts.
func (x *site) fails(parts ...string) {
	x.t.Helper()
	c := x.client()
	ch, err := c.Open(x.t.Context())
	if err == nil {
		_ = ch.Close()
		x.t.Fatal("no error")
	}
	if errs.CodeOf(err) != errs.HostConnect {
		x.t.Errorf("code is %v", errs.CodeOf(err))
	}
	mentions(x.t, err, parts...)
}

func mentions(t *testing.T, err error, parts ...string) {
	t.Helper()
	t.Log(err)
	if len(errs.Hints(err)) == 0 {
		t.Error("no hint")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in the error", part)
		}
	}
}

func TestEcho(t *testing.T) {
	x := newSite(t, sshtest.Start(t, sshtest.Options{}))
	x.works()
	if got, want := x.client().String(), fmt.Sprintf("%s@127.0.0.1:%d", x.User, x.Port); got != want {
		t.Errorf("String is %q, want %q", got, want)
	}
	if log := x.Log(); !strings.Contains(log, "Accepted publickey") {
		t.Errorf("log of sshd:\n%s", log)
	}
}

// Ten megabytes go and come back unharmed, with both directions full at times.
func TestBulk(t *testing.T) {
	x := newSite(t, sshtest.Start(t, sshtest.Options{}))
	ch, err := x.client().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 10<<20)
	_, _ = rand.Read(data)
	var sending sync.WaitGroup
	sending.Go(func() {
		if n, err := ch.Write(data); n != len(data) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	})
	back := sha256.New()
	if n, err := io.CopyN(back, ch, int64(len(data))); err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	sending.Wait()
	if want := sha256.Sum256(data); string(back.Sum(nil)) != string(want[:]) {
		t.Error("not what was sent")
	}
	_ = ch.Close()
	if _, err := ch.Write(data); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
}

// Close frees a reader and a writer, also when the command does not react at all.
func TestCloseFrees(t *testing.T) {
	x := newSite(t, sshtest.Start(t, sshtest.Options{}))
	x.host.Command = "trap '' HUP TERM PIPE; echo; exec sleep 1000"
	c := x.client()
	ch, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	var blocked sync.WaitGroup
	blocked.Go(func() {
		if _, err := ch.Read(make([]byte, 1)); err == nil {
			t.Error("Read gave no error")
		}
	})
	wrote := make(chan struct{})
	blocked.Go(func() {
		close(wrote)
		if _, err := ch.Write(make([]byte, 8<<20)); err == nil {
			t.Error("Write gave no error")
		}
	})
	<-wrote
	begin := time.Now()
	_ = ch.Close()
	blocked.Wait()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	_ = c.Close()
	// The command outlives sshd's session.
	for _, pid := range pidsOf(t, "sleep 1000") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// pidsOf gives the processes of a command line that only this test uses.
func pidsOf(t *testing.T, command string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, file := range files {
		b, _ := os.ReadFile(file) // it may have gone
		var pid int
		if strings.TrimRight(strings.ReplaceAll(string(b), "\x00", " "), " ") == command {
			if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// accepted counts the logins in sshd's log.
func (x *site) accepted() int { return strings.Count(x.Log(), "Accepted publickey") }

// Twenty sessions at once stay below sshd's default MaxSessions and MaxStartups.
func TestParallel(t *testing.T) {
	x := newSite(t, sshtest.Start(t, sshtest.Options{}))
	c := x.client()
	var all sync.WaitGroup
	channels := make([]*ssh.Channel, 20)
	for i := range channels {
		all.Go(func() {
			ch, err := c.Open(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			channels[i] = ch
			if _, err := fmt.Fprintf(ch, "%d\n", i); err != nil {
				t.Error(err)
			}
			var got int
			if _, err := fmt.Fscanln(ch, &got); err != nil || got != i {
				t.Errorf("session %d answered %d, %v", i, got, err)
			}
		})
	}
	all.Wait()
	if n := x.accepted(); n != 8 {
		t.Errorf("%d connections, want 8", n)
	}
	for _, ch := range channels {
		if ch != nil {
			_ = ch.Close()
		}
	}
	// What is free is used again.
	ch, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ch)
	if n := x.accepted(); n != 8 {
		t.Errorf("%d connections after one more session, want 8", n)
	}
}

// Sessions that do not fit in the wanted connections get others, be it by our own bound or by
// that of the server.
func TestMoreThanFits(t *testing.T) {
	for _, test := range []struct {
		config   []string
		most     int
		sessions int
		want     int
	}{
		{nil, 1, 10, 2},
		{[]string{"MaxSessions 2"}, 1, 5, 3},
		{[]string{"MaxStartups 2:90:3"}, 8, 8, 8},
	} {
		t.Run(strings.Join(test.config, ","), func(t *testing.T) {
			x := newSite(t, sshtest.Start(t, sshtest.Options{Config: test.config}))
			x.conf.MaxConnections = test.most
			c := x.client()
			var all sync.WaitGroup
			for range test.sessions {
				all.Go(func() {
					if ch, err := c.Open(t.Context()); err != nil {
						t.Error(err)
					} else {
						echo(t, ch)
					}
				})
			}
			all.Wait()
			if n := x.accepted(); n != test.want {
				t.Errorf("%d connections, want %d", n, test.want)
			}
		})
	}
}

// A connection is kept when its last session closes; one that has died is replaced.
func TestReuse(t *testing.T) {
	x := newSite(t, sshtest.Start(t, sshtest.Options{}))
	c := x.client()
	for range 3 {
		ch, err := c.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		echo(t, ch)
		_ = ch.Close()
	}
	if n := x.accepted(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	x.Signal(syscall.SIGKILL)
	ch, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ch)
	if n := x.accepted(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

func TestClosedClient(t *testing.T) {
	x := newSite(t, sshtest.Start(t, sshtest.Options{}))
	c := x.client()
	ch, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if _, err := ch.Read(make([]byte, 1)); err == nil {
		t.Error("Read of a closed client gave no error")
	}
	if _, err := ch.Write([]byte("x")); err == nil {
		t.Error("Write of a closed client gave no error")
	}
	if _, err := c.Open(t.Context()); err == nil {
		t.Error("Open of a closed client gave no error")
	}
}

// Close ends what is being opened.
func TestCloseWhileOpening(t *testing.T) {
	l := listen(t, func(net.Conn) {})
	x := newSite(t, sshtest.Start(t, sshtest.Options{}))
	x.host.Port = l.port
	c := x.client()
	var opening sync.WaitGroup
	for range 3 {
		opening.Go(func() {
			if _, err := c.Open(context.Background()); err == nil {
				t.Error("no error")
			}
		})
	}
	<-l.accepted
	_ = c.Close()
	opening.Wait()
}
