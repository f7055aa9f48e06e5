package sshd_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/protocol/sshd"
)

func TestSessionCarriesBytes(t *testing.T) {
	key := signer(t)
	l := start(t, sshd.Config{Serve: echo}, grant(t, "archive main", key.PublicKey(), "db1"))
	cmd := mustExec(t, l.connect(t, key))
	data := make([]byte, 64<<20)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := cmd.Write(data)
		sent <- errors.Join(err, cmd.CloseWrite())
	}()
	hash := sha256.New()
	n, err := io.Copy(hash, cmd)
	if err := errors.Join(err, <-sent); err != nil || n != int64(len(data)) || [32]byte(hash.Sum(nil)) != sha256.Sum256(data) {
		t.Fatalf("%d bytes came back, error %v", n, err)
	}
	if status := cmd.wait(); status != "[0 0 0 0]" {
		t.Errorf("exit status %s", status)
	}
	if log := l.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "' with key 'db1'") {
		t.Errorf("log is\n%s", log)
	}
}

func TestPeerIsTheKey(t *testing.T) {
	one, two := signer(t), signer(t)
	peers := make(chan sshd.Peer, 1)
	l := start(t, sshd.Config{Serve: func(_ context.Context, _ io.ReadWriteCloser, p sshd.Peer) { peers <- p }},
		grant(t, "archive main", one.PublicKey(), "db1"), grant(t, "admin *", two.PublicKey(), ""),
		grant(t, "restore other", one.PublicKey(), "again"))
	for _, test := range []struct {
		key                    ssh.Signer
		name                   string
		archive, restore, both bool
	}{
		{one, "db1", true, true, false},
		{two, ssh.FingerprintSHA256(two.PublicKey()), false, false, true},
	} {
		c := l.connect(t, test.key)
		mustExec(t, c).wait()
		p := <-peers
		if p.Name != test.name || p.Address != c.LocalAddr().String() {
			t.Errorf("peer is %+v", p)
		}
		if p.Permits("archive", "main") != test.archive || p.Permits("restore", "other") != test.restore ||
			p.Permits("archive", "other") || p.Permits("admin", "any") != test.both {
			t.Errorf("'%s' may %v", p.Name, p.Grants)
		}
	}
}

// forger says that it has a key it does not have.
type forger struct {
	ssh.Signer
	says ssh.PublicKey
}

func (f forger) PublicKey() ssh.PublicKey { return f.says }

func TestLoginRefused(t *testing.T) {
	known, unknown, ca := signer(t), signer(t), signer(t)
	cert := &ssh.Certificate{Key: known.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	certified, err := ssh.NewCertSigner(cert, known)
	if err != nil {
		t.Fatal(err)
	}
	l := start(t, sshd.Config{Serve: echo}, grant(t, "archive main", known.PublicKey(), "db1"))
	for _, test := range []struct {
		name string
		auth []ssh.AuthMethod
		log  string
	}{
		{"unknown key", []ssh.AuthMethod{ssh.PublicKeys(unknown)}, "level=INFO msg=\"connection from 'ADDR' refused: not granted anything: key " + ssh.FingerprintSHA256(unknown.PublicKey())},
		{"forged signature", []ssh.AuthMethod{ssh.PublicKeys(forger{unknown, known.PublicKey()})}, "level=DEBUG msg=\"connection from 'ADDR' refused: "},
		{"certificate of a known key", []ssh.AuthMethod{ssh.PublicKeys(certified)}, "level=INFO msg=\"connection from 'ADDR' refused: not granted anything: key "},
		{"password", []ssh.AuthMethod{ssh.Password("")}, "level=DEBUG msg=\"connection from 'ADDR' refused: it proved no key"},
		{"nothing", nil, "level=DEBUG msg=\"connection from 'ADDR' refused: it proved no key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			nc, err := net.Dial("tcp", l.addr)
			if err != nil {
				t.Fatal(err)
			}
			addr := nc.LocalAddr().String()
			_, _, _, err = ssh.NewClientConn(nc, l.addr, &ssh.ClientConfig{User: "root", Auth: test.auth, HostKeyCallback: ssh.FixedHostKey(l.host)})
			if err == nil {
				t.Fatal("logged in")
			}
			want := strings.ReplaceAll(test.log, "ADDR", addr)
			eventually(t, "log with "+want, func() bool { return strings.Contains(l.log.String(), want) })
		})
	}
}

func TestOnlyExec(t *testing.T) {
	key := signer(t)
	l := start(t, sshd.Config{Serve: echo}, grant(t, "archive main", key.PublicKey(), "db1"))
	c := l.connect(t, key)

	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "forwarded-tcpip", "x11", "auth-agent@openssh.com", "tun@openssh.com"} {
		_, _, err := c.OpenChannel(kind, ssh.Marshal(struct {
			Host     string
			Port     uint32
			From     string
			FromPort uint32
		}{"127.0.0.1", 22, "127.0.0.1", 1}))
		var open *ssh.OpenChannelError
		if !errors.As(err, &open) || open.Reason != ssh.Prohibited || open.Message != "this is a pgx listener, it forwards nothing" {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for kind, want := range map[string]bool{"keepalive@openssh.com": true, "tcpip-forward": false, "streamlocal-forward@openssh.com": false, "hostkeys-prove-00@openssh.com": false} {
		if ok, _, err := c.SendRequest(kind, true, nil); ok != want || err != nil {
			t.Errorf("%s: %v, error %v", kind, ok, err)
		}
	}
	refused := []string{"pty-req", "env", "x11-req", "auth-agent-req@openssh.com", "subsystem", "signal", "window-change"}
	channel, requests, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd := &command{channel, requests}
	for _, kind := range append(refused, "exec") {
		if ok, err := cmd.SendRequest(kind, true, nil); ok != (kind == "exec") || err != nil {
			t.Errorf("%s: %v, error %v", kind, ok, err)
		}
	}
	for _, kind := range append(refused, "exec", "shell") {
		if ok, err := cmd.SendRequest(kind, true, nil); ok || err != nil {
			t.Errorf("%s after exec: %v, error %v", kind, ok, err)
		}
	}
	cmd.line(t, "still works\n")
}

func TestShellSaysWhatThisIs(t *testing.T) {
	key := signer(t)
	l := start(t, sshd.Config{Serve: echo}, grant(t, "archive main", key.PublicKey(), "db1"))
	channel, requests, err := l.connect(t, key).OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := channel.SendRequest("shell", true, nil); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(channel.Stderr())
	want := "this is a pgx listener, there is no shell: pgx connects to it by itself, with this key, as its configuration says\n"
	if status := (&command{channel, requests}).wait(); err != nil || string(text) != want || status != "[0 0 0 1]" {
		t.Errorf("got %q, status %s, error %v", text, status, err)
	}
}

// What a command pays that opens a connection of its own.
func BenchmarkConnect(b *testing.B) {
	key := signer(b)
	l := start(b, sshd.Config{Serve: func(_ context.Context, t io.ReadWriteCloser, _ sshd.Peer) { _, _ = t.Write([]byte("x")) }},
		grant(b, "archive main", key.PublicKey(), "db1"))
	for b.Loop() {
		c, err := l.dial(key)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(mustExec(b, c), make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}

func BenchmarkThroughput(b *testing.B) {
	key := signer(b)
	l := start(b, sshd.Config{Serve: func(_ context.Context, t io.ReadWriteCloser, _ sshd.Peer) { _, _ = io.Copy(io.Discard, t) }},
		grant(b, "archive main", key.PublicKey(), "db1"))
	cmd := mustExec(b, l.connect(b, key))
	block := make([]byte, 1<<20)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		if _, err := cmd.Write(block); err != nil {
			b.Fatal(err)
		}
	}
}
