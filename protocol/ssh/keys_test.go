package ssh_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/sshtest"
)

func TestKeyTypes(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		x := newSite(t, s)
		x.remove("id_ed25519")
		file := filepath.Join(x.home, ".ssh", "id_"+kind)
		sshtest.Keygen(t, file, kind, "")
		x.let(file + ".pub")
		x.works()
		if kind == "rsa" && !strings.Contains(s.Log(), "RSA SHA256:") {
			t.Error("not logged in by RSA")
		}
	}
	x := newSite(t, s)
	x.remove("id_ed25519")
	file := filepath.Join(x.home, ".ssh", "id_rsa")
	for _, args := range [][]string{
		{"-q", "-t", "rsa", "-m", "PEM", "-N", "", "-f", file},
		{"-q", "-p", "-m", "PKCS8", "-N", "", "-f", file},
	} {
		if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		x.let(file + ".pub")
		x.works()
	}
}

// let adds a public key to those that may log in.
func (x *site) let(file string) {
	x.t.Helper()
	f, err := os.OpenFile(x.AuthorizedKeys, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	if _, err := f.WriteString(read(x.t, file)); err != nil {
		x.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		x.t.Fatal(err)
	}
}

func TestKeyFaults(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	begin := func(x *site) string { return fmt.Sprintf("'%s@127.0.0.1:%d': log in: ", s.User, s.Port) }
	site := func(t *testing.T) (*site, string) {
		x := newSite(t, s)
		return x, filepath.Join(x.home, ".ssh", "id_ed25519")
	}
	t.Run("wrong key", func(t *testing.T) {
		x, file := site(t)
		x.remove("id_ed25519")
		sshtest.Keygen(t, file, "ed25519", "")
		x.fails(begin(x)+"user '"+s.User+"' is not let in with any of the keys '"+file+"' "+fingerprint(t, file),
			"authorized_keys of '"+s.User+"' on '127.0.0.1' must have the line that 'pgx ssh-setup' prints")
	})
	t.Run("wrong user", func(t *testing.T) {
		x, _ := site(t)
		x.host.User = "nobody-of-that-name"
		x.fails("'nobody-of-that-name@127.0.0.1:", "log in: user 'nobody-of-that-name' is not let in")
	})
	t.Run("no key", func(t *testing.T) {
		x, file := site(t)
		x.remove("id_ed25519")
		x.fails(begin(x)+"there is no key to log in with: none of '"+file+"', '"+filepath.Dir(file)+"/id_ecdsa', '"+
			filepath.Dir(file)+"/id_rsa' exists and there is no ssh-agent", "ssh-keygen -q -t ed25519 -N '' -f '"+file+"'", "'pgx ssh-setup'")
	})
	t.Run("missing", func(t *testing.T) {
		x, _ := site(t)
		x.write("config", "IdentityFile /nowhere/key\n", 0o600)
		x.fails(begin(x)+"no key can be used; '/nowhere/key' does not exist", "does IdentityFile name the right file?")
	})
	t.Run("too open", func(t *testing.T) {
		x, file := site(t)
		x.write("id_ed25519", read(t, s.Key), 0o640)
		x.fails(begin(x)+"no key can be used; private key '"+file+"' can be read by others (mode 0640)", "chmod 600 '"+file+"'")
	})
	t.Run("foreign", func(t *testing.T) {
		x, file := site(t)
		x.write("id_ed25519", "PuTTY-User-Key-File-3: ssh-ed25519\n", 0o600)
		x.fails(begin(x)+"no key can be used; '"+file+"' is not a private key that pgx can read: no key found", "ssh-keygen -y -f "+file)
	})
	t.Run("directory", func(t *testing.T) {
		x, file := site(t)
		x.write("config", "IdentityFile "+filepath.Dir(file)+"\n", 0o600)
		x.fails("'" + filepath.Dir(file) + "' is not a key file")
	})
	t.Run("passphrase", func(t *testing.T) {
		x, file := site(t)
		x.remove("id_ed25519")
		sshtest.Keygen(t, file, "ed25519", "secret")
		x.fails(begin(x)+"no key can be used; private key '"+file+"' has a passphrase and ssh-agent does not have it",
			"ssh-add '"+file+"'", "for unattended work a key without passphrase")
	})
	t.Run("agent gone", func(t *testing.T) {
		x, _ := site(t)
		x.remove("id_ed25519")
		x.conf.AgentSocket = "/nowhere/agent"
		x.fails("no key can be used; ssh-agent at '/nowhere/agent' does not answer", "SSH_AUTH_SOCK")
	})
	t.Run("server takes no keys", func(t *testing.T) {
		x := newSite(t, sshtest.Start(t, sshtest.Options{Config: []string{"PubkeyAuthentication no", "PasswordAuthentication yes"}}))
		x.fails("log in: the server takes no keys from user", "PubkeyAuthentication")
	})
	t.Run("too many keys", func(t *testing.T) {
		x, _ := site(t)
		var config strings.Builder
		for i := range 8 {
			file := filepath.Join(x.home, ".ssh", fmt.Sprint("key", i))
			sshtest.Keygen(t, file, "ed25519", "")
			fmt.Fprintf(&config, "IdentityFile %s\n", file)
		}
		x.write("config", config.String(), 0o600)
		x.fails("is not let in with any of the keys", "MaxAuthTries", "IdentitiesOnly yes")
	})
}

// A key that cannot be used does not matter as long as another one can.
func TestSeveralIdentities(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	x := newSite(t, s)
	x.write("open", read(t, s.Key), 0o644)
	sshtest.Keygen(t, filepath.Join(x.home, ".ssh", "wrong"), "ecdsa", "")
	x.write("config", "Host 127.0.0.1\n  IdentityFile /nowhere\n  IdentityFile ~/.ssh/open\n  IdentityFile %d/.ssh/wrong\n"+
		"Host *\n  IdentityFile \"~/.ssh/id_ed25519\"\n", 0o600)
	x.works()
	x.remove("id_ed25519")
	x.fails("is not let in with any of the keys '"+x.home+"/.ssh/wrong' SHA256:", "; '/nowhere' does not exist", "can be read by others (mode 0644)")
}

// startAgent starts an ssh-agent that holds the keys, whose passphrase is "secret".
func startAgent(t *testing.T, keys ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pgx-agent") // sockets want a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 100)); err != nil { // it tells the socket once it is there
		t.Fatal(err)
	}
	askpass := filepath.Join(dir, "askpass")
	if err := os.WriteFile(askpass, []byte("#!/bin/sh\necho secret\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		add := exec.Command("ssh-add", "-q", key)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket, "SSH_ASKPASS="+askpass, "SSH_ASKPASS_REQUIRE=force")
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("ssh-add: %v: %s", err, out)
		}
	}
	return socket
}

func TestAgent(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	dir := t.TempDir()
	locked, old, wrong := filepath.Join(dir, "locked"), filepath.Join(dir, "old"), filepath.Join(dir, "wrong")
	sshtest.Keygen(t, locked, "ed25519", "secret")
	sshtest.Keygen(t, wrong, "ed25519", "secret")
	// An old format, which does not tell the public half.
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "secret", "-f", old).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	begin := newSite(t, s)
	begin.let(locked + ".pub")
	begin.let(old + ".pub")
	socket := startAgent(t, wrong, locked, old)
	for name, config := range map[string]string{
		"whatever it has":    "",
		"encrypted file":     "IdentitiesOnly yes\nIdentityFile " + locked + "\n",
		"old encrypted file": "IdentitiesOnly yes\nIdentityFile " + old + "\n",
		"public key":         "IdentitiesOnly yes\nIdentityFile " + locked + ".pub\n",
	} {
		t.Run(name, func(t *testing.T) {
			x := newSite(t, s)
			x.remove("id_ed25519")
			x.write("config", config, 0o600)
			x.conf.AgentSocket = socket
			x.works()
		})
	}
	t.Run("only the file", func(t *testing.T) {
		x := newSite(t, s)
		x.write("config", "IdentitiesOnly yes\nIdentityFile "+wrong+"\n", 0o600)
		x.conf.AgentSocket = socket
		x.fails("is not let in with any of the keys '" + wrong + "' " + fingerprint(t, wrong+".pub"))
	})
	t.Run("not in the agent", func(t *testing.T) {
		x := newSite(t, s)
		sshtest.Keygen(t, filepath.Join(x.home, ".ssh", "mine"), "ed25519", "secret")
		x.write("config", "IdentitiesOnly yes\nIdentityFile ~/.ssh/mine\nIdentityFile ~/.ssh/mine.pub\n", 0o600)
		x.conf.AgentSocket = socket
		x.fails("has a passphrase and ssh-agent does not have it", "is a public key and ssh-agent does not have the private one")
	})
}
