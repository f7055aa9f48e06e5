package ssh_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/sshtest"
	"github.com/pgx-backup/pgx/protocol/ssh"
)

// listener is something that is no SSH server.
type listener struct {
	port     int
	accepted chan struct{} // one for each connection, as far as anybody wants to know
	mu       sync.Mutex
	count    int
}

// listen has serve talk to each connection, which is closed when the test ends or, if serve gives
// an answer of its own, by serve.
func listen(t *testing.T, serve func(net.Conn)) *listener {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{port: tcp.Addr().(*net.TCPAddr).Port, accepted: make(chan struct{}, 100)}
	var running sync.WaitGroup
	var conns []net.Conn
	running.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
			l.mu.Lock()
			l.count++
			l.mu.Unlock()
			l.accepted <- struct{}{}
			running.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = tcp.Close()
		for len(l.accepted) > 0 {
			<-l.accepted
		}
		for _, c := range conns {
			_ = c.Close()
		}
		running.Wait()
	})
	return l
}

func TestNetworkFaults(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	t.Run("port closed", func(t *testing.T) {
		x := newSite(t, s)
		x.host.Port = sshtest.FreePort(t)
		x.fails(fmt.Sprintf("'%s@127.0.0.1:%d': connect: ", s.User, x.host.Port), fmt.Sprintf("connect: 127.0.0.1:%d: connection refused\n", x.host.Port), "is sshd running there", "pg1-host-port")
	})
	t.Run("no such host", func(t *testing.T) {
		x := newSite(t, s)
		x.host.Name = "db1.invalid"
		x.fails(fmt.Sprintf("'%s@db1.invalid:%d': resolve: ", s.User, s.Port), "pg1-host")
	})
	t.Run("silent", func(t *testing.T) {
		x := newSite(t, s)
		x.host.Port = listen(t, func(net.Conn) {}).port
		x.conf.Timeout = 300 * time.Millisecond
		begin := time.Now()
		x.fails("connect: no answer within 300ms", "firewall")
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("took %s", took)
		}
	})
	t.Run("closes at once", func(t *testing.T) {
		x := newSite(t, s)
		l := listen(t, func(c net.Conn) { _ = c.Close() })
		x.host.Port = l.port
		x.fails("connect: the server closed the connection without a greeting, 5 times", "MaxStartups")
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.count != 5 {
			t.Errorf("%d tries", l.count)
		}
	})
	for name, said := range map[string]string{
		"other service": "220 mail.example ESMTP\r\n",
		"garbage":       strings.Repeat("\x00\x1b[31mgarbage", 40),
	} {
		t.Run(name, func(t *testing.T) {
			x := newSite(t, s)
			x.host.Port = listen(t, func(c net.Conn) { _, _ = io.WriteString(c, said) }).port
			x.conf.Timeout = time.Second
			x.fails("connect: what answers is not an SSH server: it said \"", "is "+fmt.Sprint(x.host.Port)+" the port of sshd?")
		})
	}
	t.Run("stops after the greeting", func(t *testing.T) {
		x := newSite(t, s)
		x.host.Port = listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-Silent\r\n") }).port
		x.conf.Timeout = 300 * time.Millisecond
		x.fails("connect: no answer within 300ms")
	})
	t.Run("no common algorithm", func(t *testing.T) {
		x := newSite(t, sshtest.Start(t, sshtest.Options{Config: []string{"Ciphers aes256-cbc"}}))
		x.fails("connect: ", "aes256-cbc")
	})
}

// A host behind a firewall that drops everything, and a cable that is cut in mid-stream.
func TestNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	name := fmt.Sprintf("pgxt-ssh%d", os.Getpid())
	link, net4 := fmt.Sprintf("pgxs%d", os.Getpid()%100000), fmt.Sprintf("10.%d.%d", 100+os.Getpid()%100, os.Getpid()/100%250)
	ip := func(command string, args ...string) {
		t.Helper()
		if out, err := exec.Command(command, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", command, args, err, out)
		}
	}
	run := func(line string) { t.Helper(); f := strings.Fields(line); ip(f[0], f[1:]...) }
	run("ip netns add " + name)
	t.Cleanup(func() { run("ip netns del " + name) })
	run("ip link add " + link + " type veth peer name eth0 netns " + name)
	t.Cleanup(func() { run("ip link del " + link) }) // the kernel takes its time with a namespace
	run("ip addr add " + net4 + ".1/24 dev " + link)
	run("ip link set " + link + " up")
	run("ip -n " + name + " addr add " + net4 + ".2/24 dev eth0")
	run("ip -n " + name + " link set eth0 up")
	s := sshtest.Start(t, sshtest.Options{Address: net4 + ".2", Port: 22, Prefix: []string{"ip", "netns", "exec", name}})
	x := newSite(t, s)
	x.works()

	x.conf.Silence = time.Second
	c := x.client()
	ch, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ch)
	run("ip -n " + name + " link set eth0 down")
	begin := time.Now()
	if _, err := ch.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := ch.Read(make([]byte, 1)); err == nil {
		t.Error("read over a cut cable")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("noticed after %s", took)
	}
	mentions(t, ch.Explain(io.ErrUnexpectedEOF), "'"+s.User+"@"+net4+".2:22': connection lost: "+net4+".2:22: connection timed out")
	_ = ch.Close()

	run("ip -n " + name + " link set eth0 up")
	run("ip netns exec " + name + " iptables -A INPUT -p tcp --dport 22 -j DROP")
	x.conf.Timeout = 500 * time.Millisecond
	begin = time.Now()
	x.fails("'"+s.User+"@"+net4+".2:22': connect: no answer within 500ms", "does a firewall let port 22 through?")
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
}

// A cancelled context ends Open at once in each step.
func TestCancel(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	silent := listen(t, func(net.Conn) {})
	greets := listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-Silent\r\n") })
	stopped := sshtest.Start(t, sshtest.Options{})
	for _, test := range []struct {
		name    string
		port    int
		reached func() // waits for the step
	}{
		{"before the greeting", silent.port, func() { <-silent.accepted }},
		{"key exchange", greets.port, func() { <-greets.accepted }},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := newSite(t, s)
			x.host.Port = test.port
			ctx, cancel := context.WithCancel(t.Context())
			go func() { test.reached(); cancel() }()
			cancelled(t, x.client(), ctx)
		})
	}
	t.Run("start of the command", func(t *testing.T) {
		x := newSite(t, stopped)
		c := x.client()
		ch, err := c.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = ch.Close()
		stopped.Signal(syscall.SIGSTOP)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		begin := time.Now()
		if _, err := c.Open(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("took %s", took)
		}
		_ = c.Close()
	})
	t.Run("already", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		cancelled(t, newSite(t, s).client(), ctx)
	})
}

func cancelled(t *testing.T, c *ssh.Client, ctx context.Context) {
	t.Helper()
	begin := time.Now()
	_, err := c.Open(ctx)
	if !errors.Is(err, context.Canceled) || errs.CodeOf(err) != errs.Term {
		t.Errorf("error is %v", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
}

// A caller that gives up does not take along another that waits for the same connection.
func TestAbandoned(t *testing.T) {
	x := newSite(t, sshtest.Start(t, sshtest.Options{}))
	first := true
	var mu sync.Mutex
	l := listen(t, func(c net.Conn) {
		mu.Lock()
		hold := first
		first = false
		mu.Unlock()
		if hold {
			return // says nothing
		}
		up, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", x.Port))
		if err != nil {
			t.Error(err)
			return
		}
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(up, c); _ = up.Close() })
		both.Go(func() { _, _ = io.Copy(c, up); _ = c.Close() })
		both.Wait()
	})
	x.write("known_hosts", strings.Replace(read(t, x.KnownHosts), fmt.Sprintf("[127.0.0.1]:%d", x.Port), "127.0.0.1", 1), 0o644)
	x.host.Port, x.conf.MaxConnections = l.port, 1
	c := x.client()
	ctx, cancel := context.WithCancel(t.Context())
	var both sync.WaitGroup
	both.Go(func() { cancelled(t, c, ctx) })
	<-l.accepted
	both.Go(func() {
		ch, err := c.Open(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		echo(t, ch)
	})
	cancel()
	both.Wait()
	_ = c.Close()
}

// What Explain makes of an unexpected end.
func TestExplain(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	peer := func(x *site) string { return fmt.Sprintf("'%s@127.0.0.1:%d': ", x.User, x.Port) }
	for _, test := range []struct {
		command string
		code    errs.Code
		want    []string // the first after the peer
	}{
		{"/nowhere/pgx agent --stdio", errs.HostConnect, []string{
			"start the command: there is no '/nowhere/pgx' on '127.0.0.1': it said '", "option pg1-host-cmd"}},
		{"/etc/passwd agent", errs.HostConnect, []string{
			"start the command: '/etc/passwd' cannot be run on '127.0.0.1': it said '", "option pg1-host-cmd"}},
		{"echo 'Command not found.' >&2; exit 1", errs.HostConnect, []string{"start the command: there is no 'echo'"}},
		{"printf 'ERROR: [037]: no \\033[31mconfiguration\\nHINT: make one\\n' >&2; exit 37", errs.HostConnect, []string{
			"'printf", "ended there with exit status 37: it said 'ERROR: [037]: no ?[31mconfiguration / HINT: make one'"}},
		{"echo This account is not available.; exit 1", errs.HostConnect, []string{
			"'echo", "ended there with exit status 1: it said 'This account is not available.'"}},
		{"exit 0", errs.HostConnect, []string{"'exit 0' ended there with exit status 0"}},
		{"kill -KILL $$", errs.HostConnect, []string{"'kill -KILL $$' was killed there by signal KILL"}},
		{"echo \"ERROR: [048]: invalid command 'agent'\" >&2; exit 48", errs.Protocol, []string{
			"pgbackrest answered to 'echo", "both ends must be pgx"}},
		{`echo '{"name":"pgBackRest","service":"remote","version":"2.60.0"}'`, errs.Protocol, []string{
			"pgbackrest answered to 'echo", "both ends must be pgx"}},
		{"head -c 100000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 3", errs.HostConnect, []string{
			"'head", "ended there with exit status 3: it said 'xxx"}},
	} {
		t.Run(test.command, func(t *testing.T) {
			x := newSite(t, s)
			x.host.Command = test.command
			ch, err := x.client().Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(ch); err != nil {
				t.Error(err)
			}
			if _, err := ch.Write([]byte("x")); err != nil { // not at once
				t.Log(err)
			}
			_ = ch.Close()
			err = ch.Explain(io.ErrUnexpectedEOF)
			t.Log(err)
			if got := errs.CodeOf(err); got != test.code {
				t.Errorf("code is %v", got)
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Error("the cause is lost")
			}
			if !strings.HasPrefix(err.Error(), peer(x)+test.want[0]) {
				t.Errorf("error does not begin with %q", peer(x)+test.want[0])
			}
			for _, part := range test.want[1:] {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in the error", part)
				}
			}
		})
	}
}

// The real pgbackrest at the other end.
func TestExplainPgBackRest(t *testing.T) {
	binary, err := exec.LookPath("pgbackrest")
	if err != nil {
		t.Skip("pgbackrest is not installed")
	}
	x := newSite(t, sshtest.Start(t, sshtest.Options{}))
	x.host.Command = binary + " agent --stdio"
	ch, err := x.client().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(ch)
	mentions(t, ch.Explain(io.EOF), "pgbackrest answered to '"+binary, "invalid command 'agent'", "both ends must be pgx")
}

// A command that goes on is explained by what it has said before the channel was closed.
func TestExplainAlive(t *testing.T) {
	x := newSite(t, sshtest.Start(t, sshtest.Options{}))
	x.host.Command = "echo careful >&2; echo; cat; echo too late >&2; exit 9"
	ch, err := x.client().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(ch).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	silent := errs.New(errs.Protocol, "no answer")
	got := ch.Explain(silent)
	if want := "no answer; '" + x.host.Command + "' there said 'careful'"; errs.Message(got) != want || errs.CodeOf(got) != errs.Protocol {
		t.Errorf("%q, want %q", got, want)
	}
	_ = ch.Close()
	if after := ch.Explain(silent); after.Error() != got.Error() {
		t.Errorf("after Close: %v", after)
	}
	if err := ch.Explain(context.Canceled); err != context.Canceled {
		t.Error(err)
	}
}

// sshd's process is killed in mid-stream.
func TestConnectionKilled(t *testing.T) {
	x := newSite(t, sshtest.Start(t, sshtest.Options{}))
	x.host.Command = "cat /dev/zero"
	ch, err := x.client().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, ch, 1<<20); err != nil {
		t.Fatal(err)
	}
	x.Signal(syscall.SIGKILL)
	if _, err := io.Copy(io.Discard, ch); err != nil {
		t.Log(err)
	}
	mentions(t, ch.Explain(io.ErrUnexpectedEOF), fmt.Sprintf("'%s@127.0.0.1:%d': connection lost: ", x.User, x.Port), "is the host up")
}

func TestRefusedCommand(t *testing.T) {
	x := newSite(t, sshtest.Start(t, sshtest.Options{Config: []string{"MaxSessions 0"}}))
	x.fails("start the command: the host opens no session", "MaxSessions")
}
