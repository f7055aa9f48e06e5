package pgsql

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/pgtest"
)

// What a role or database is set to cannot end a backup in the middle, or lead to
// functions that are not the server's own. This test looks inside: a session's settings
// can be seen by itself only.
func TestSessionSettings(t *testing.T) {
	for _, major := range pgtest.Majors(t, pgtest.Supported()...) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			cluster := pgtest.New(t, pgtest.Options{Major: major})
			cluster.Start()
			want := map[string]string{
				"search_path": "pg_catalog", "statement_timeout": "0", "lock_timeout": "0",
				"idle_in_transaction_session_timeout": "0", "max_parallel_workers_per_gather": "0",
				"standard_conforming_strings": "on", "client_encoding": "UTF8", "application_name": "pgx [test]",
			}
			if major >= 14 {
				want["idle_session_timeout"] = "0"
				want["client_connection_check_interval"] = "10s"
			}
			if major >= 17 {
				want["transaction_timeout"] = "0"
			}
			for name, value := range want {
				if value == "0" {
					cluster.Exec("alter role postgres set " + name + " = 99")
				}
			}
			cluster.Exec(`create schema evil;
				create function evil.pg_is_in_recovery() returns bool language sql as 'select true';
				alter role postgres set search_path = evil, pg_catalog;
				alter role postgres set standard_conforming_strings = off;
				alter role postgres set client_encoding = 'LATIN1';`)
			conn, err := Connect(t.Context(), Params{
				SocketDir: cluster.SocketDir, Port: cluster.Port, User: "postgres", Database: "postgres",
				Timeout: time.Minute, Application: "pgx [test]",
			})
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range want {
				r, err := conn.queryRow(t.Context(), "show "+name)
				if err != nil {
					t.Fatal(err)
				}
				if got := r.text(); got != value {
					t.Errorf("%s is '%s', not '%s'", name, got, value)
				}
			}
			if conn.inRecovery {
				t.Error("a function of somebody else was called")
			}
			if err := conn.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A server that answers otherwise than expected is an error, not a panic.
func TestRow(t *testing.T) {
	for _, c := range []struct {
		name string
		read func(*row)
		want string
	}{
		{"too few", func(r *row) { r.text(); r.text(); r.int() }, "expected more than 2 columns from 'q'"},
		{"boolean", func(r *row) { r.bool() }, "column 1 of 'q' is 'x', not a boolean"},
		{"number", func(r *row) { r.int() }, "column 1 of 'q' is 'x', not a number"},
		{"time", func(r *row) { r.text(); r.time() }, "column 2 of 'q' is '', not a number"},
		{"lsn", func(r *row) { r.lsn() }, "column 1 of 'q' is 'x', not a log sequence number"},
		{"the first error stays", func(r *row) { r.int(); r.lsn(); r.bool() }, "column 1 of 'q' is 'x', not a number"},
	} {
		r := &row{sql: "q", cells: [][]byte{[]byte("x"), nil}}
		c.read(r)
		if r.err == nil || r.err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.name, r.err, c.want)
		}
	}
}
