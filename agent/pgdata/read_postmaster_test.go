package pgdata_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

func TestPostmaster(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	if _, _, err := pgdata.Postmaster(c.PGDATA); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a server the error is %v", err)
	}
	c.Start()
	port, dir, err := pgdata.Postmaster(c.PGDATA + "/")
	if err != nil || port != c.Port || dir != c.SocketDir {
		t.Errorf("got %d, '%s', %v, want %d, '%s'", port, dir, err, c.Port, c.SocketDir)
	}
}

func TestPostmasterRefuses(t *testing.T) {
	for _, c := range []struct{ content, want string }{
		{"", "does not say yet where the server listens"},
		{"12\n/data\n1700000000\n5432\n", "does not say yet where the server listens"},
		{"12\n/data\n1700000000\n0\n/tmp\n\n", "has '0' where the port of the server should be"},
		{"12\n/data\n1700000000\nx\n/tmp\n\n", "has 'x' where the port of the server should be"},
		{strings.Repeat("x", 100<<10), "does not say yet where the server listens"},
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(dir+"/postmaster.pid", []byte(c.content), 0o600))
		_, _, err := pgdata.Postmaster(dir)
		wantCode(t, err, errs.FileInvalid, c.want)
	}
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/postmaster.pid", []byte("12\n/data\n1700000000\n5432\n\n*\n"), 0o600))
	if port, socket, err := pgdata.Postmaster(dir); err != nil || port != 5432 || socket != "" {
		t.Errorf("without a socket: %d, '%s', %v", port, socket, err)
	}
}
