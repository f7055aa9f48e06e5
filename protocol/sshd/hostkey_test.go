package sshd_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol/sshd"
)

// printHostKey is what this program does in TestHostKeyOfSeveralAtOnce.
func printHostKey(path string) int {
	key, err := sshd.HostKey(context.Background(), path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(ssh.FingerprintSHA256(key.PublicKey()))
	return 0
}

func hostKey(t *testing.T, path string) string {
	t.Helper()
	key, err := sshd.HostKey(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return ssh.FingerprintSHA256(key.PublicKey())
}

func TestHostKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "host_key")
	first := hostKey(t, path)
	for name, mode := range map[string]os.FileMode{path: 0o600, path + ".pub": 0o644} {
		if info, err := os.Stat(name); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, error %v", name, info, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 {
		t.Errorf("%v, error %v", entries, err)
	}
	public := func() string {
		content, err := os.ReadFile(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		key, comment, _, _, err := ssh.ParseAuthorizedKey(content)
		if err != nil || !strings.HasPrefix(comment, "pgx@") || bytes.Count(content, []byte("\n")) != 1 {
			t.Errorf("%q, error %v", content, err)
		}
		return ssh.FingerprintSHA256(key)
	}
	if again := hostKey(t, path); again != first || public() != first {
		t.Errorf("%s is %s the second time, its public half %s", first, again, public())
	}
	if err := os.Remove(path + ".pub"); err != nil {
		t.Fatal(err)
	}
	if again := hostKey(t, path); again != first || public() != first {
		t.Error("the public half was not written again")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if again := hostKey(t, path); again == first || public() != again {
		t.Error("the public half is not that of the new key")
	}
	if out, err := exec.Command("ssh-keygen", "-y", "-f", path).CombinedOutput(); errors.Is(err, exec.ErrNotFound) && os.Getenv("PGX_TEST_SHORT") != "" {
		t.Log(err)
	} else if err != nil || !bytes.HasPrefix(out, []byte("ssh-ed25519 ")) {
		t.Errorf("ssh-keygen: %s, error %v", out, err)
	}
}

func TestHostKeyOfSeveralAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "host_key")
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		found = map[string]bool{}
	)
	add := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		found[s] = true
	}
	for range 4 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "PGX_TEST_HOST_KEY="+path)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s, error %v", out, err)
			}
			add(strings.TrimSpace(string(out)))
		})
		for range 4 {
			wg.Go(func() {
				key, err := sshd.HostKey(t.Context(), path)
				if err != nil {
					t.Error(err)
					return
				}
				add(ssh.FingerprintSHA256(key.PublicKey()))
			})
		}
	}
	wg.Wait()
	if len(found) != 1 || !found[hostKey(t, path)] {
		t.Errorf("keys are %v", found)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 {
		t.Errorf("%v, error %v", entries, err)
	}
}

func TestHostKeyErrors(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good")
	hostKey(t, good)
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := ssh.ParseRawPrivateKey(content)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(raw, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		content []byte
		mode    os.FileMode
		uid     int
		want    string
	}{
		"readable":  {content, 0o640, -1, "host key 'PATH' has mode 0640: others may have read or changed it\nHINT: if they cannot have, 'chmod 600 PATH'; else remove it"},
		"foreign":   {content, 0o600, 12345, "host key 'PATH' belongs to the user with id 12345\nHINT: it must belong"},
		"empty":     {nil, 0o600, -1, "host key 'PATH' is damaged, or no private key: "},
		"cut":       {content[:len(content)/2], 0o600, -1, "host key 'PATH' is damaged, or no private key: "},
		"public":    {ssh.MarshalAuthorizedKey(signer(t).PublicKey()), 0o600, -1, "host key 'PATH' is damaged, or no private key: "},
		"encrypted": {pem.EncodeToMemory(block), 0o600, -1, "host key 'PATH' is encrypted: nobody is there to type its passphrase\nHINT: take the passphrase off with 'ssh-keygen -p -f PATH'"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "host_key")
			if err := os.WriteFile(path, test.content, test.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil {
				t.Fatal(err)
			}
			if test.uid >= 0 {
				if os.Geteuid() != 0 {
					t.Skip("only root can give a file away")
				}
				if err := os.Chown(path, test.uid, -1); err != nil {
					t.Fatal(err)
				}
			}
			_, err := sshd.HostKey(t.Context(), path)
			if errs.CodeOf(err) != errs.FileInvalid || !strings.HasPrefix(err.Error(), strings.ReplaceAll(test.want, "PATH", path)) {
				t.Errorf("%v %v", errs.CodeOf(err), err)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, test.content) {
				t.Errorf("the file was changed, error %v", err)
			}
		})
	}
	if _, err := sshd.HostKey(t.Context(), t.TempDir()); errs.CodeOf(err) != errs.FileInvalid || !strings.HasSuffix(err.Error(), "is not a file") {
		t.Errorf("of a directory: %v", err)
	}
}
