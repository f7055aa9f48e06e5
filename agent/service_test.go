package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/protocol"
)

// calls are those of each role, and which way their data goes.
var calls = map[string]map[string]string{
	agent.RoleBackup: {
		"control": "", "running": "", "list-files": "out", "read-file": "out", "read-files": "both", "connect": "", "disconnect": "", "facts": "",
		"databases": "out", "tablespaces": "out", "now": "", "alive": "", "replayed": "", "checkpoint": "", "start-backup": "", "stop-backup": "",
		"create-restore-point": "", "switch-wal": "", "summaries": "", "changed": "out",
	},
	agent.RoleRestoreTarget: {
		"check": "", "inspect": "in", "begin": "in", "match-files": "in", "patch-file": "in", "patch-next": "in", "put-file": "in", "put-files": "in", "read-small": "out", "write-small": "in",
		"finish": "",
	},
}

// services offers each role on a small data directory without a server.
func services(t testing.TB) map[string]func() protocol.Service {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "PG_VERSION"), []byte("15\n"), 0o600))
	return map[string]func() protocol.Service{
		agent.RoleBackup: func() protocol.Service {
			return agent.BackupService(agent.NewLocal(dir, pgsql.Params{SocketDir: dir, Port: 1, User: "x", Database: "x"}))
		},
		agent.RoleRestoreTarget: func() protocol.Service {
			return agent.TargetService(caged{newTarget(filepath.Join(t.TempDir(), "data")), t.TempDir()})
		},
	}
}

func do(ctx context.Context, s *protocol.Session, way, call string, args any, data []byte) error {
	switch way {
	case "in":
		return s.Send(ctx, call, args, bytes.NewReader(data), nil)
	case "out", "both":
		var in *protocol.Stream
		var err error
		if way == "out" {
			in, err = s.Receive(ctx, call, args)
		} else {
			in, err = s.Exchange(ctx, call, args, bytes.NewReader(data))
		}
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, in)
		return errors.Join(err, in.Close())
	}
	return s.Call(ctx, call, args, nil)
}

func TestRoles(t *testing.T) {
	offered := services(t)
	for role, service := range offered {
		s := newRemote(t, service).session(role)
		for other, of := range calls {
			for call, way := range of {
				err := do(t.Context(), s, way, call, nil, nil)
				if refused := errs.CodeOf(err) == errs.Access; refused != (role != other) {
					t.Errorf("role '%s', call '%s': %v", role, call, err)
				}
				if want := "role '" + role + "' may not call '" + call + "'"; role != other && !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %s", err, want)
				}
			}
		}
		if all := service().Calls; len(all) != len(calls[role]) {
			t.Errorf("role '%s' has %d calls, want %d", role, len(all), len(calls[role]))
		}
	}
}

func TestRequests(t *testing.T) {
	offered := services(t)
	for _, c := range []struct {
		role, call, args string
		code             errs.Code
		want             string
	}{
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":-1,"compress":"none"}`, 0, ""},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":-2,"compress":"none"}`, errs.ParamInvalid, "limit -2 of 'pg_data/PG_VERSION' is negative"},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":1,"compress":"rar"}`, errs.Format, "compress type 'rar' is not known"},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":1,"compress":"zst","level":23}`, errs.ParamInvalid, "compress type 'zst' has no level 23, only -7 to 22"},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":1,"compress":"none","pages":{"size":5}}`, errs.ParamInvalid, "page size 5 is not valid"},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":1,"compress":"none","pages":{"size":1099511627776}}`, errs.ParamInvalid, "page size"},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":1,"compress":"none","expected":{"size":3,"sha1":"AAAAAAAAAAAAAAAAAAAAAAAAAAA="}}`, 0, ""},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":1,"compress":"none","expected":{"size":3,"sha1":"AAAA"}}`, errs.ParamInvalid, "what is expected of 'pg_data/PG_VERSION' cannot be"},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":1,"compress":"none","expected":{"size":-1,"sha1":"AAAAAAAAAAAAAAAAAAAAAAAAAAA="}}`, errs.ParamInvalid, "what is expected of 'pg_data/PG_VERSION' cannot be"},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":-1,"compress":"none","raw":true,"blocks":{"size":8192,"sum_size":6,"super_size":8192,"reference":0}}`, 0, ""},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":-1,"compress":"none","blocks":{"size":8193,"sum_size":6,"super_size":8192,"reference":0}}`, errs.Format, "blocks of 8193 bytes with checksums of 6 cannot be"},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":-1,"compress":"none","blocks":{"size":8192,"sum_size":6,"super_size":8192,"reference":-1}}`, errs.ParamInvalid, "super blocks of 8192 bytes at 0 of backup -1 cannot be"},
		{agent.RoleBackup, "read-file", `{"name":"pg_data/PG_VERSION","limit":-1,"compress":"none","blocks":{"size":8192,"sum_size":6,"super_size":8192,"prior":"AAA=","reference":1}}`, errs.Format, "unable to read the prior block map of 'pg_data/PG_VERSION'"},
		{agent.RoleBackup, "read-file", `{"name":"/etc/passwd","limit":1,"compress":"none"}`, errs.ParamInvalid, "'/etc/passwd' is not the name of a file in a data directory"},
		{agent.RoleBackup, "read-file", `{"name":"\u0100","limit":1,"compress":"none","bytes":true}`, errs.Protocol, "marked as bytes"},
		{agent.RoleBackup, "read-file", `{"path":"/etc/passwd"}`, errs.Protocol, "unknown field"},
		{agent.RoleBackup, "read-file", `null`, errs.Format, "compress type '' is not known"},
		{agent.RoleBackup, "read-file", `{"sent":true}`, errs.Protocol, "what was sent is cut"},
		{agent.RoleBackup, "list-files", `{"version":15}`, 0, ""},
		{agent.RoleBackup, "list-files", `{"version":11}`, errs.ParamInvalid, "PostgreSQL 11 is not supported"},
		{agent.RoleBackup, "list-files", `{"version":15,"exclude":[""]}`, errs.ParamInvalid, "an empty name cannot be excluded"},
		{agent.RoleBackup, "start-backup", `{"label":"x"}`, errs.Protocol, "not connected to PostgreSQL: 'connect' comes first"},
		{agent.RoleRestoreTarget, "put-file", `{"name":"pg_data/x"}`, errs.Protocol, "no restore is under way"},
		{agent.RoleRestoreTarget, "finish", `{"online":true}`, errs.Protocol, "no restore is under way"},
	} {
		s := newRemote(t, offered[c.role]).session(c.role)
		err := do(t.Context(), s, calls[c.role][c.call], c.call, json.RawMessage(c.args), nil)
		if errs.CodeOf(err) != c.code || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: [%03d] %v\nwant [%03d] %s", c.call, c.args, errs.CodeOf(err), err, c.code, c.want)
		}
	}
}

// FuzzRequests sends anything to every call: it must be answered, and no handler may panic.
func FuzzRequests(f *testing.F) {
	for _, args := range []string{
		`{"name":"pg_data/PG_VERSION","limit":-1,"compress":"gz","level":6,"pages":{"size":8192,"segment":131072,"header":true}}`,
		`{"version":15,"catalog_version":202209061,"online":true,"exclude":["a/","b"]}`,
		`{"label":"a","fast":true}`, `{"name":"x"}`, `{"online":true}`, `null`,
		`{"name":"pg_data/PG_VERSION","mode":384,"size":1,"mtime":{"s":1},"sha1":"2jmj7l5rSw0yVb/vlWAYkK/YBwk="}`,
		`{"file":{"name":"pg_data/a","mode":384,"size":1,"mtime":{"s":1},"sha1":"2jmj7l5rSw0yVb/vlWAYkK/YBwk="},"times":true,"before":{"s":5}}`,
	} {
		f.Add([]byte(args), []byte(smallLayout))
	}
	f.Fuzz(func(t *testing.T, args, data []byte) {
		if !json.Valid(args) {
			return
		}
		for role, service := range services(t) {
			s := newRemote(t, service).session(role)
			if role == agent.RoleRestoreTarget {
				answered(t, "begin", do(t.Context(), s, "in", "begin", nil, data))
			}
			for call, way := range calls[role] {
				answered(t, call, do(t.Context(), s, way, call, json.RawMessage(args), data))
			}
			if err := s.Err(); err != nil {
				t.Errorf("the session of role '%s' is broken: %v", role, err)
			}
		}
	})
}

func answered(t *testing.T, call string, err error) {
	t.Helper()
	if err != nil && (strings.Contains(err.Error(), "internal error") || errs.CodeOf(err) == errs.HostConnect) {
		t.Errorf("call '%s': %v", call, err)
	}
}

// A hostile agent says and sends what it likes.
func hostile(t testing.TB, result json.RawMessage, data []byte) *agent.Client {
	handlers := map[string]protocol.Handler{}
	for call, way := range calls[agent.RoleBackup] {
		handlers[call] = func(_ context.Context, c *protocol.Call) (any, error) {
			if way == "both" {
				_, _ = io.Copy(io.Discard, c.In())
			}
			if way == "out" || way == "both" {
				_, _ = c.Out().Write(data)
			}
			return result, nil
		}
	}
	r := newRemote(t, func() protocol.Service { return protocol.Service{Calls: handlers} })
	return agent.NewClient(r.pool(agent.RoleBackup, 2))
}

// useAll calls everything and gives all errors.
func useAll(ctx context.Context, c *agent.Client) map[string]error {
	failed := map[string]error{}
	_, failed["control"] = c.Control(ctx)
	_, failed["running"] = c.Running(ctx)
	for _, err := range c.List(ctx, listing()) {
		failed["list"] = err
	}
	if in, err := c.Open(ctx, pgdata.Read{Name: "pg_data/x", Compress: compress.None, Limit: -1}); err != nil {
		failed["read"] = err
	} else {
		_, failed["read"] = in.WriteTo(io.Discard)
		_ = in.Result()
		_ = in.Close()
	}
	if b, err := c.OpenBundle(ctx, make([]pgdata.Read, 2)); err != nil {
		failed["bundle"] = err
	} else {
		_, failed["bundle"] = b.WriteTo(io.Discard)
		_ = b.Close()
	}
	s, err := c.Connect(ctx)
	failed["connect"] = err
	if err != nil {
		return failed
	}
	_, failed["facts"] = s.Facts(ctx)
	_, failed["databases"] = s.Databases(ctx)
	_, failed["tablespaces"] = s.Tablespaces(ctx)
	_, failed["now"] = s.Now(ctx)
	_, failed["start"] = s.StartBackup(ctx, pgsql.BackupStart{CheckArchive: true})
	_, failed["stop"] = s.StopBackup(ctx)
	_, failed["point"] = s.CreateRestorePoint(ctx, "x")
	_, failed["switch"] = s.SwitchWAL(ctx)
	_ = s.Close(ctx)
	return failed
}

func TestHostileAgent(t *testing.T) {
	sum := `"AAAAAAAAAAAAAAAAAAAAAAAAAAA="`
	for _, c := range []struct{ call, result, data, want string }{
		{"control", `{"PageSize":8192,"WALSegmentSize":0}`, "", "pg_control with page size 8192 and WAL segment size 0 cannot be true"},
		{"facts", `{"BlockSize":0,"WALSegmentSize":16777216}`, "", "PostgreSQL with page size 0"},
		{"start", `{"Segment":"../../../etc/passwd"}`, "", "'../../../etc/passwd' is not the name of a WAL segment"},
		{"start", `{"Segment":"000000010000000000000001"}`, "", "'' is not the name of a WAL segment"},
		{"stop", `{"Segment":"000000010000000000000001.partial"}`, "", "is not the name of a WAL segment"},
		{"switch", `{"segment":"x"}`, "", "'x' is not the name of a WAL segment"},
		{"list", `null`, `{"kind":"file","name":"../../etc/cron.d/x"}` + "\n", "which is not a name in a data directory"},
		{"list", `null`, `{"kind":"file","name":"pg_data/../../x"}` + "\n", "which is not a name in a data directory"},
		{"list", `null`, `{"kind":"file","name":"pg_datax"}` + "\n", "which is not a name in a data directory"},
		{"list", `null`, `{"kind":"file","name":"pg_data/\u0000"}` + "\n", "which is not a name in a data directory"},
		{"list", `null`, `{"kind":"excluded","name":"pg_data/x"}` + "\n", "cannot be true"},
		{"list", `null`, `{"kind":"device","name":"pg_data/x"}` + "\n", "cannot be true"},
		{"list", `null`, `{"kind":"file","name":"pg_data/x","size":-1}` + "\n", "cannot be true"},
		{"list", `null`, `{"kind":"dir","name":"pg_data","mode":2541}` + "\n", "cannot be true"},
		{"list", `null`, `{"kind":"dir","name":"pg_data"}`, "is cut"},
		{"list", `null`, strings.Repeat("x", 1<<20), "has more than 262144 bytes"},
		{"databases", `null`, "[]\n", "cannot be read"},
		{"read", `{"size":3,"sha1":` + sum + `,"repo_size":4,"repo_sha1":` + sum + `}`, "abc", "cannot be true"},
		{"read", `{"unchanged":true}`, "", "cannot be true"}, // nothing was expected
		{"read", `{"unchanged":true}`, "abc", "cannot be true"},
		{"read", `{"size":-1,"sha1":` + sum + `,"repo_size":3,"repo_sha1":` + sum + `}`, "abc", "cannot be true"},
		{"read", `{"size":3,"sha1":"","repo_size":3,"repo_sha1":` + sum + `}`, "abc", "cannot be true"},
		{"read", `{"size":3,"sha1":` + sum + `,"repo_size":3,"repo_sha1":` + sum + `,"pages":{"errors":"gA=="}}`, "abc", "cannot be true"},
		{"read", `{"size":3,"sha1":` + sum + `,"repo_size":3,"repo_sha1":` + sum + `,"pages":{"errors":"/////w//////Dw=="}}`, "abc", "cannot be true"},
	} {
		err := useAll(t.Context(), hostile(t, json.RawMessage(c.result), []byte(c.data)))[c.call]
		if errs.CodeOf(err) != errs.Protocol || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s %.100s: %v, want %s", c.call, c.result, c.data, err, c.want)
		}
	}
}

func FuzzClient(f *testing.F) {
	f.Add([]byte(`{"PageSize":8192,"WALSegmentSize":16777216,"Segment":"000000010000000000000001","segment":"000000010000000000000001"}`),
		[]byte(`{"kind":"file","name":"pg_data/x","mode":384,"user":"a","size":1,"mtime":2}`+"\n"))
	f.Add([]byte(`{"size":1,"sha1":"2jmj7l5rSw0yVb/vlWAYkK/YBwk=","repo_size":2,"repo_sha1":"2jmj7l5rSw0yVb/vlWAYkK/YBwk=","pages":{"errors":"AQI="}}`),
		[]byte(`{}`))
	f.Fuzz(func(t *testing.T, result, data []byte) {
		if json.Valid(result) {
			useAll(t.Context(), hostile(t, result, data))
		}
	})
}
