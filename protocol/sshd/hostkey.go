package sshd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
)

const maxHostKey = 64 << 10 // a key of RSA 16384 has 13 KiB

// HostKey loads the host key at path, an OpenSSH or PEM file. One that is missing is made, with
// its directory; of several processes that do so at once all get the same. Its public half, the line
// that clients need in known_hosts after the name of the host, is beside it as path.pub.
func HostKey(ctx context.Context, path string) (ssh.Signer, error) {
	if err := durable.MkdirPath(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, durable.Wrap(errs.PathOpen, err, "unable to open path '%s'", filepath.Dir(path))
	}
	defer func() { _ = dir.Close() }() // each write was synced by itself
	base := filepath.Base(path)

	key, err := loadHostKey(path)
	made := errors.Is(err, fs.ErrNotExist)
	if made {
		if err = makeHostKey(ctx, dir, base); err == nil || errors.Is(err, fs.ErrExist) {
			key, err = loadHostKey(path) // the file decides, whoever was first
		}
	}
	if err != nil {
		return nil, err
	}
	// A process may have died before it wrote the public half, and a key may have been replaced.
	// Where a key was put by hand the directory need not be writable: nothing but people
	// reads the public half.
	if err := writePublic(ctx, dir, base+".pub", key.PublicKey()); err != nil && made {
		return nil, err
	}
	return key, nil
}

func makeHostKey(ctx context.Context, dir *os.Root, base string) error {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return errs.WrapAs(errs.Crypto, err, "unable to make a host key")
	}
	block, err := ssh.MarshalPrivateKey(private, hostKeyComment())
	if err != nil {
		return errs.WrapAs(errs.Crypto, err, "unable to make a host key")
	}
	f, err := durable.Create(dir, base, 0o600)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(pem.EncodeToMemory(block)); err != nil {
		return err
	}
	return f.CommitNew(ctx)
}

func hostKeyComment() string {
	host, err := os.Hostname()
	if err != nil {
		return "pgx"
	}
	return "pgx@" + host
}

func loadHostKey(path string) (ssh.Signer, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // of a pipe the open would wait for a writer
	if err != nil {
		return nil, durable.Wrap(errs.FileOpen, err, "unable to open host key '%s'", path)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, durable.Wrap(errs.FileOpen, err, "unable to open host key '%s'", path)
	}
	if !info.Mode().IsRegular() {
		return nil, errs.New(errs.FileInvalid, "host key '%s' is not a file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, errs.WithHint(errs.New(errs.FileInvalid, "host key '%s' has mode %04o: others may have read or changed it", path, mode),
			"if they cannot have, 'chmod 600 %s'; else remove it, so that a new one is made, and tell the clients' known_hosts", path)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 && int(uid) != os.Geteuid() {
		return nil, errs.WithHint(errs.New(errs.FileInvalid, "host key '%s' belongs to the user with id %d", path, uid),
			"it must belong to the user that pgx runs as")
	}
	content, err := io.ReadAll(io.LimitReader(f, maxHostKey))
	if err != nil {
		return nil, durable.Wrap(errs.FileRead, err, "unable to read host key '%s'", path)
	}
	key, err := ssh.ParsePrivateKey(content)
	var encrypted *ssh.PassphraseMissingError
	if errors.As(err, &encrypted) {
		return nil, errs.WithHint(errs.New(errs.FileInvalid, "host key '%s' is encrypted: nobody is there to type its passphrase", path),
			"take the passphrase off with 'ssh-keygen -p -f %s'", path)
	}
	if err != nil {
		return nil, errs.WithHint(errs.New(errs.FileInvalid, "host key '%s' is damaged, or no private key: %w", path, err),
			"bring it back from a copy, or remove it, so that a new one is made, and tell the clients' known_hosts")
	}
	return key, nil
}

// writePublic writes the public half where it is missing or of another key.
func writePublic(ctx context.Context, dir *os.Root, name string, key ssh.PublicKey) error {
	line := bytes.TrimSuffix(ssh.MarshalAuthorizedKey(key), []byte("\n"))
	content, err := dir.ReadFile(name)
	if err == nil && bytes.HasPrefix(content, line) {
		return nil
	}
	return durable.WriteFile(ctx, dir, name, 0o644, append(line, " "+hostKeyComment()+"\n"...))
}
