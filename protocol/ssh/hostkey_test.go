package ssh_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgx-backup/pgx/internal/sshtest"
)

// pub gives type and key of a public key file.
func pub(t *testing.T, file string) string {
	t.Helper()
	f := strings.Fields(read(t, file))
	return f[0] + " " + f[1]
}

// fingerprint is what ssh-keygen calls a key.
func fingerprint(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("ssh-keygen", "-lf", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[1]
}

func TestKnownHosts(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{HostKeyTypes: []string{"rsa", "ecdsa", "ed25519"}})
	address := fmt.Sprintf("127.0.0.1:%d", s.Port)
	bracketed := fmt.Sprintf("[127.0.0.1]:%d", s.Port)
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	sshtest.Keygen(t, other, "ed25519", "")
	key := func(kind string) string { return pub(t, filepath.Join(s.Dir, "host_"+kind+".pub")) }

	for name, lines := range map[string]string{
		"[host]:port":          bracketed + " " + key("ed25519"),
		"hashed":               knownhosts.HashHostname(bracketed) + " " + key("ed25519"),
		"without port":         "127.0.0.1 " + key("ed25519"),
		"pattern and comments": "# hosts\n\n[127.0.0.*]:*,[127.0.0.1]:" + fmt.Sprint(s.Port) + " " + key("ed25519") + " a comment",
		"only rsa":             bracketed + " " + key("rsa"),
		"only ecdsa":           bracketed + " " + key("ecdsa"),
		"old and new":          bracketed + " " + pub(t, other+".pub") + "\n" + bracketed + " " + key("ed25519"),
		"other key revoked":    "@revoked * " + pub(t, other+".pub") + "\n" + bracketed + " " + key("ecdsa"),
	} {
		t.Run(name, func(t *testing.T) {
			x := newSite(t, s)
			x.write("known_hosts", lines+"\n", 0o600)
			x.works()
		})
	}

	x := newSite(t, s)
	file := filepath.Join(x.home, ".ssh/known_hosts")
	compare := "compare the fingerprint on '127.0.0.1' itself: ssh-keygen -lf /etc/ssh/ssh_host_%s_key.pub"
	add := fmt.Sprintf("add it: ssh-keyscan -t %%s -p %d 127.0.0.1 >> '%s'", s.Port, file)
	for _, test := range []struct {
		name  string
		lines string
		want  []string
	}{
		{"unknown", "otherhost " + key("ed25519"), []string{
			"host key: key ssh-ed25519 SHA256:", "of '" + address + "' is unknown: it is in none of '" + file + "'", "SHA256:"}},
		{"changed", "\n" + bracketed + " " + pub(t, other+".pub"), []string{
			"host key: key of '" + address + "' has changed: it is ssh-ed25519 " + fingerprint(t, filepath.Join(s.Dir, "host_ed25519.pub")) +
				", but '" + file + "' line 2 says ssh-ed25519 " + fingerprint(t, other+".pub"),
			"remove the old one: ssh-keygen -f '" + file + "' -R '" + bracketed + "'",
			fmt.Sprintf(compare, "ed25519"), fmt.Sprintf(add, "ed25519")}},
		{"hashed and changed", knownhosts.HashHostname(bracketed) + " " + pub(t, other+".pub"), []string{"has changed", "line 1"}},
		{"changed without port", "127.0.0.1 " + pub(t, other+".pub"), []string{"has changed", "-R '127.0.0.1'"}},
		{"revoked", bracketed + " " + key("ed25519") + "\n@revoked * " + key("ed25519"), []string{
			"host key: key ssh-ed25519 " + fingerprint(t, filepath.Join(s.Dir, "host_ed25519.pub")), "is marked as revoked in '" + file + "' line 2"}},
		{"malformed", bracketed + " " + key("ed25519") + "\nhost ssh-ed25519 !!!!", []string{
			"host key: '" + file + "' line 2 cannot be read: illegal base64", "correct or remove this line"}},
		{"must be signed", "@cert-authority " + bracketed + " " + pub(t, other+".pub"), []string{
			"has shown its key", "without a certificate, but by '" + file + "' line 1 it must have one"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			x.t = t
			x.write("known_hosts", test.lines+"\n", 0o600)
			x.fails(test.want...)
		})
	}
	t.Run("no file", func(t *testing.T) {
		x.t = t
		x.remove("known_hosts")
		x.fails("is unknown: none of '"+file+"', '/etc/ssh/ssh_known_hosts' exists", ">> '"+file+"'")
	})
	// The line that a hint gives does what it says.
	t.Run("remedy", func(t *testing.T) {
		out, err := exec.Command("ssh-keyscan", "-t", "ed25519", "-p", fmt.Sprint(s.Port), "127.0.0.1").Output()
		if err != nil {
			t.Fatal(err)
		}
		x.t = t
		x.write("known_hosts", bracketed+" "+pub(t, other+".pub")+"\n", 0o600)
		if out, err := exec.Command("ssh-keygen", "-f", file, "-R", bracketed).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(out); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		x.works()
	})
}

// A host that has no key of the type that is known.
func TestKeyOfOtherType(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{HostKeyTypes: []string{"ecdsa"}})
	other := filepath.Join(t.TempDir(), "other")
	sshtest.Keygen(t, other, "ed25519", "")
	x := newSite(t, s)
	x.write("known_hosts", fmt.Sprintf("[127.0.0.1]:%d %s\n", s.Port, pub(t, other+".pub")), 0o600)
	x.fails("has shown its key ecdsa-sha2-nistp256 SHA256:", "line 1 knows only one of another type, ssh-ed25519", "ssh_host_ecdsa_key.pub")
}

// A host key that an authority has signed.
func TestHostCertificate(t *testing.T) {
	dir := t.TempDir()
	authority, host := filepath.Join(dir, "ca"), filepath.Join(dir, "host")
	sshtest.Keygen(t, authority, "ed25519", "")
	sshtest.Keygen(t, host, "ed25519", "")
	if out, err := exec.Command("ssh-keygen", "-q", "-s", authority, "-h", "-I", "db1", "-n", "127.0.0.1", host+".pub").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := sshtest.Start(t, sshtest.Options{Config: []string{"HostKey " + host, "HostCertificate " + host + "-cert.pub"}})
	x := newSite(t, s)
	x.write("known_hosts", fmt.Sprintf("@cert-authority [127.0.0.1]:%d %s\n", s.Port, pub(t, authority+".pub")), 0o600)
	x.works()
}
