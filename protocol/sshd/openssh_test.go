package sshd_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/protocol/sshd"
)

// openssh is OpenSSH's client with a key of its own.
type openssh struct {
	dir string
	key ssh.PublicKey
}

func newOpenSSH(t *testing.T) openssh {
	t.Helper()
	if _, err := exec.LookPath("ssh"); err != nil {
		if os.Getenv("PGX_TEST_SHORT") != "" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	o := openssh{dir: t.TempDir()}
	o.key = o.keygen(t, "client")
	return o
}

func (o openssh) keygen(t *testing.T, name string) ssh.PublicKey {
	t.Helper()
	path := filepath.Join(o.dir, name)
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("%s, error %v", out, err)
	}
	content, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(content)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// command is ssh with these arguments before the host and text after it.
func (o openssh) command(t *testing.T, l *listener, args []string, text ...string) *exec.Cmd {
	t.Helper()
	host, port, err := net.SplitHostPort(l.addr)
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(o.dir, "known_hosts")
	line := "[" + host + "]:" + port + " " + string(ssh.MarshalAuthorizedKey(l.host))
	if err := os.WriteFile(known, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	all := append([]string{"-F", "none", "-i", filepath.Join(o.dir, "client"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + known, "-p", port}, args...)
	cmd := exec.Command("ssh", append(append(all, "nobody@"+host), text...)...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK=", "DISPLAY=")
	return cmd
}

func TestOpenSSHCarriesBytes(t *testing.T) {
	o := newOpenSSH(t)
	l := start(t, sshd.Config{Serve: echo}, grant(t, "archive main", o.key, "db1"))
	data := make([]byte, 64<<20)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	cmd := o.command(t, l, []string{"-c", "aes128-gcm@openssh.com"}, "pgx", "server", "--stdio")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), &out, &stderr
	if err := cmd.Run(); err != nil || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("%d bytes came back, error %v\n%s", out.Len(), err, stderr.String())
	}
}

func TestOpenSSHOptions(t *testing.T) {
	o := newOpenSSH(t)
	l := start(t, sshd.Config{Serve: echo}, grant(t, "archive main", o.key, "db1"))
	for _, test := range []struct {
		name   string
		args   []string
		text   string
		code   int
		out    string
		stderr string
	}{
		{"command", nil, "cat /etc/passwd", 0, "hello", ""},
		{"other ciphers", []string{"-c", "chacha20-poly1305@openssh.com,aes256-ctr"}, "x", 0, "hello", ""},
		{"aes-ctr", []string{"-c", "aes256-ctr"}, "x", 0, "hello", ""},
		{"terminal", []string{"-tt"}, "x", 255, "", "PTY allocation request failed"},
		{"agent", []string{"-A"}, "x", 0, "hello", ""},
		{"X11", []string{"-X"}, "x", 0, "hello", ""},
		{"environment", []string{"-o", "SetEnv=LD_PRELOAD=x", "-o", "SendEnv=*"}, "x", 0, "hello", ""},
		{"remote port", []string{"-R", "0:127.0.0.1:1"}, "x", 0, "hello", "remote port forwarding failed"},
		{"remote port wanted", []string{"-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"}, "x", 255, "", "remote port forwarding failed"},
		{"direct", []string{"-W", "127.0.0.1:22"}, "", 255, "", "administratively prohibited: this is a pgx listener, it forwards nothing"},
		{"tunnel", []string{"-w", "0:0"}, "x", 0, "hello", "administratively prohibited"},
		{"shell", nil, "", 1, "", "this is a pgx listener, there is no shell"},
		{"subsystem", []string{"-s"}, "sftp", 255, "", "subsystem request failed"},
		{"keepalive", []string{"-o", "ServerAliveInterval=1"}, "x", 0, "hello", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var text []string
			if test.text != "" {
				text = []string{test.text}
			}
			cmd := o.command(t, l, test.args, text...)
			var out, stderr bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("hello"), &out, &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != test.code || out.String() != test.out || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("exit code %d, output %q\n%s", code, out.String(), stderr.String())
			}
		})
	}
}

func TestOpenSSHLocalForwardingIsRefused(t *testing.T) {
	o := newOpenSSH(t)
	l := start(t, sshd.Config{Serve: echo}, grant(t, "archive main", o.key, "db1"))
	socket := filepath.Join(o.dir, "s")
	cmd := o.command(t, l, []string{"-L", socket + ":" + l.addr}, "x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "x"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // now ssh listens
		t.Error(err)
	}
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(nc); err != nil || len(got) > 0 {
		t.Errorf("through the listener: %q, error %v", got, err)
	}
	_ = nc.Close()
	_ = in.Close()
	if err := cmd.Wait(); err != nil || !strings.Contains(stderr.String(), "administratively prohibited") {
		t.Errorf("error %v\n%s", err, stderr.String())
	}
}

// A client may ask whether a key is good and then log in with another.
func TestOpenSSHGetsTheGrantOfTheKeyItProves(t *testing.T) {
	o := newOpenSSH(t)
	admin := o.keygen(t, "admin")
	if err := os.Remove(filepath.Join(o.dir, "admin")); err != nil { // it knows the public half only
		t.Fatal(err)
	}
	peers := make(chan sshd.Peer, 1)
	l := start(t, sshd.Config{Serve: func(_ context.Context, _ io.ReadWriteCloser, p sshd.Peer) { peers <- p }},
		grant(t, "admin *", admin, "admin"), grant(t, "archive main", o.key, "db1"))
	adminFile := filepath.Join(o.dir, "admin.pub")
	cmd := o.command(t, l, []string{"-v"}, "x")
	cmd.Args = slices.Insert(cmd.Args, 1, "-i", adminFile) // before the key that it has
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s, error %v", out, err)
	}
	if !bytes.Contains(out, []byte("Server accepts key: "+adminFile)) {
		t.Errorf("the other key was not asked for:\n%s", out)
	}
	if p := <-peers; p.Name != "db1" || p.Permits("admin", "main") || !p.Permits("archive", "main") {
		t.Errorf("peer is %+v", p)
	}
}

func TestOpenSSHWrongKey(t *testing.T) {
	o := newOpenSSH(t)
	l := start(t, sshd.Config{Serve: echo}, grant(t, "archive main", signer(t).PublicKey(), "db1"))
	out, err := o.command(t, l, nil, "x").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("Permission denied (publickey)")) {
		t.Errorf("%s, error %v", out, err)
	}
	eventually(t, "log", func() bool {
		return strings.Contains(l.log.String(), "refused: not granted anything: key "+ssh.FingerprintSHA256(o.key))
	})
}
