package agent_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/protocol"
)

// cluster is a running server with everything in its data directory that is listed
// in its own way.
func cluster(t *testing.T) *pgtest.Cluster {
	t.Helper()
	c := pgtest.New(t, pgtest.Options{Checksums: true})
	c.Start()
	space, outside := pgtest.Dir(t), pgtest.Dir(t)
	c.Exec(`create tablespace space location '` + space + `';
		create table t as select i, repeat('x', 100) from generate_series(1, 20000) i;
		create table far tablespace space as select * from t; checkpoint`)
	must(t, os.WriteFile(filepath.Join(outside, "conf"), []byte("# linked\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(outside, "hba"), []byte("# linked\n"), 0o600))
	must(t, os.Symlink(outside, filepath.Join(c.PGDATA, "linked")))
	must(t, os.WriteFile(filepath.Join(c.PGDATA, "latin1-\xe4"), []byte("ä"), 0o600))
	must(t, os.WriteFile(filepath.Join(c.PGDATA, "line\nfeed <&>\u2028"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(c.PGDATA, "left\xff.out"), nil, 0o600))
	return c
}

func local(c *pgtest.Cluster) *agent.Local {
	return agent.NewLocal(c.PGDATA, pgsql.Params{
		SocketDir: c.SocketDir, Port: c.Port, User: "postgres", Database: "postgres", Timeout: time.Minute, Application: "agent test",
	})
}

// hosts runs a test with the Host of this machine and with the same seen from afar.
func hosts(t *testing.T, c *pgtest.Cluster, test func(t *testing.T, h agent.Host)) {
	t.Run("local", func(t *testing.T) { test(t, local(c)) })
	t.Run("remote", func(t *testing.T) {
		r := newRemote(t, func() protocol.Service { return agent.BackupService(local(c)) })
		test(t, agent.NewClient(r.pool(agent.RoleBackup, 4)))
	})
}

func listing() pgdata.Listing {
	return pgdata.Listing{Version: 15, CatalogVersion: 202209061, Online: true, Exclude: []string{"left\xff.out", "log/"}}
}

func entries(t *testing.T, h agent.Host) []pgdata.Entry {
	t.Helper()
	var all []pgdata.Entry
	for e, err := range h.List(t.Context(), listing()) {
		must(t, err)
		all = append(all, e)
	}
	return all
}

// TestHostFiles compares all that can be listed and read with what is there.
func TestHostFiles(t *testing.T) {
	c := cluster(t)
	c.Stop(pgtest.Fast)
	want := entries(t, local(c))
	control, err := local(c).Control(t.Context())
	must(t, err)
	hosts(t, c, func(t *testing.T, h agent.Host) {
		got := entries(t, h)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%d entries are not the %d that are there", len(got), len(want))
		}
		for _, name := range []string{"pg_data/latin1-\xe4", "pg_data/line\nfeed <&>\u2028", "pg_data/linked/conf"} {
			if !slices.ContainsFunc(got, func(e pgdata.Entry) bool { return e.Name == name }) {
				t.Errorf("'%q' is missing", name)
			}
		}
		if theirs, err := h.Control(t.Context()); err != nil || theirs != control {
			t.Errorf("control is %+v, %v", theirs, err)
		}
		if running, err := h.Running(t.Context()); err != nil || running {
			t.Errorf("running is %v, %v", running, err)
		}

		codecs := []compress.Type{compress.None, compress.LZ4, compress.Zstd, compress.Gzip}
		var reading sync.WaitGroup
		jobs := make(chan pgdata.Read)
		for range 4 {
			reading.Go(func() {
				for r := range jobs {
					if err := sameFile(t.Context(), h, local(c), r); err != nil {
						t.Errorf("%q: %v", r.Name, err)
					}
				}
			})
		}
		for i, e := range got {
			if e.Kind != pgdata.File {
				continue
			}
			codec := codecs[i%len(codecs)]
			r := pgdata.Read{Name: e.Name, Limit: e.Size, Compress: codec, Level: codec.DefaultLevel()}
			if postgres.HasPages(e.Name) {
				r.Pages = &pgdata.Pages{Size: control.PageSize, Segment: control.SegmentPages, Header: true}
			}
			jobs <- r
		}
		close(jobs)
		reading.Wait()
	})
}

// sameFile reads a file through both, one way each.
func sameFile(ctx context.Context, h, other agent.Host, r pgdata.Read) error {
	a, err := h.Open(ctx, r)
	if err != nil {
		return err
	}
	var got bytes.Buffer
	_, err = a.WriteTo(&got)
	if err := errors.Join(err, a.Close()); err != nil {
		return err
	}
	b, err := other.Open(ctx, r)
	if err != nil {
		return err
	}
	want, err := io.ReadAll(struct{ io.Reader }{b})
	if err := errors.Join(err, b.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got.Bytes(), want) {
		return errors.New("the contents differ")
	}
	if !reflect.DeepEqual(a.Result(), b.Result()) {
		return fmt.Errorf("result is %+v, not %+v", a.Result(), b.Result())
	}
	return nil
}

func TestHostRead(t *testing.T) {
	c := cluster(t)
	c.Stop(pgtest.Fast)
	big := filepath.Join(c.PGDATA, "base/5/16777216")
	must(t, os.WriteFile(big, bytes.Repeat([]byte("0123456789abcdef"), 1<<20), 0o600))
	hosts(t, c, func(t *testing.T, h agent.Host) {
		_, err := h.Open(t.Context(), pgdata.Read{Name: "pg_data/base/5/gone", Limit: -1, Compress: compress.None})
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error of a file that is gone is %v", err)
		}
		wantCode(t, err, errs.FileMissing)
		_, err = h.Open(t.Context(), pgdata.Read{Name: "pg_data/../../etc/passwd", Limit: -1, Compress: compress.None})
		wantCode(t, err, errs.ParamInvalid)

		read := pgdata.Read{Name: "pg_data/base/5/16777216", Limit: -1, Compress: compress.None}
		buf := make([]byte, 1000)
		for range 6 { // more than there are sessions
			in, err := h.Open(t.Context(), read)
			must(t, err)
			if _, err := io.ReadFull(in, buf); err != nil {
				t.Error(err)
			}
			must(t, in.Close()) // in the middle
		}

		ctx, cancel := context.WithCancel(t.Context())
		in, err := h.Open(ctx, read)
		must(t, err)
		if _, err := io.ReadFull(in, buf); err != nil {
			t.Error(err)
		}
		cancel()
		if _, err := io.Copy(io.Discard, in); !isCancelled(err) {
			t.Errorf("error of a cancelled read is %v", err)
		}
		must(t, in.Close())

		// Every page in ruins, and every other one.
		for _, step := range []int{1, 2} {
			pages := bytes.Repeat([]byte{0xff}, 16<<20)
			if step == 2 {
				for at := 0; at < len(pages); at += 2 * 8192 {
					clear(pages[at : at+8192])
				}
			}
			must(t, os.WriteFile(big, pages, 0o600))
			checked := read
			checked.Pages = &pgdata.Pages{Size: 8192, Segment: 131072, Header: true}
			if err := sameFile(t.Context(), h, local(c), checked); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestHostExpected: near and far, what is as expected is told without data, and what is not
// comes whole.
func TestHostExpected(t *testing.T) {
	c := cluster(t)
	c.Stop(pgtest.Fast)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	must(t, os.WriteFile(filepath.Join(c.PGDATA, "base/5/16777216"), content, 0o600))
	must(t, os.WriteFile(filepath.Join(c.PGDATA, "base/5/16777217"), nil, 0o600))
	hosts(t, c, func(t *testing.T, h agent.Host) {
		for _, codec := range []compress.Type{compress.None, compress.LZ4} {
			read := pgdata.Read{Name: "pg_data/base/5/16777216", Limit: int64(len(content)), Compress: codec, Level: codec.DefaultLevel()}
			read.Expected = &pgdata.Expected{Size: int64(len(content)), SHA1: sha1.Sum(content), Always: true}
			for range 6 { // more than there are sessions
				if _, err := h.Open(t.Context(), read); !errors.Is(err, pgdata.ErrUnchanged) {
					t.Fatalf("%s: error is %v", codec, err)
				}
			}
			read.Expected.SHA1[0]++
			if err := sameFile(t.Context(), h, local(c), read); err != nil {
				t.Errorf("%s: %v", codec, err)
			}
			if err := sameFile(t.Context(), local(c), h, read); err != nil {
				t.Errorf("%s: %v", codec, err)
			}
			read.Name = "pg_data/base/5/16777217"
			if err := sameFile(t.Context(), h, local(c), read); err != nil {
				t.Errorf("%s, empty: %v", codec, err)
			}
			read.Name = "pg_data/base/5/gone"
			if _, err := h.Open(t.Context(), read); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s, gone: %v", codec, err)
			}
		}
	})
}

func TestHostSession(t *testing.T) {
	c := cluster(t)
	hosts(t, c, func(t *testing.T, h agent.Host) {
		ctx := t.Context()
		if running, err := h.Running(ctx); err != nil || !running {
			t.Errorf("running is %v, %v", running, err)
		}
		s, err := h.Connect(ctx)
		must(t, err)
		defer func() { must(t, s.Close(ctx)) }()
		facts, err := s.Facts(ctx)
		must(t, err)
		if facts.Version != 15 || facts.DataDirectory != c.PGDATA || facts.Port != c.Port || !facts.DataChecksums || facts.Now.IsZero() {
			t.Errorf("facts are %+v", facts)
		}
		databases, err := s.Databases(ctx)
		must(t, err)
		if !slices.ContainsFunc(databases, func(d pgsql.Database) bool { return d.Name == "postgres" && d.OID == 5 }) {
			t.Errorf("databases are %+v", databases)
		}
		tablespaces, err := s.Tablespaces(ctx)
		must(t, err)
		if len(tablespaces) != 3 {
			t.Errorf("tablespaces are %+v", tablespaces)
		}
		now, err := s.Now(ctx)
		must(t, err)
		if d := now.Sub(facts.Now); d < 0 || d > time.Minute {
			t.Errorf("now is %s, before it was %s", now, facts.Now)
		}
		must(t, s.Alive(ctx))
		segment, err := s.SwitchWAL(ctx)
		if err != nil || len(segment) != 24 {
			t.Errorf("switched '%s', %v", segment, err)
		}
		lsn, err := s.CreateRestorePoint(ctx, "it's here")
		if err != nil || lsn == 0 {
			t.Errorf("restore point at %s, %v", lsn, err)
		}

		if _, err := s.StopBackup(ctx); err == nil {
			t.Error("a backup that was not started was stopped")
		}
		start, err := s.StartBackup(ctx, pgsql.BackupStart{Label: "a label", Fast: true, CheckArchive: true})
		must(t, err)
		stop, err := s.StopBackup(ctx)
		must(t, err)
		if start.LSN == 0 || start.Time.IsZero() || start.CheckSegment == "" || stop.LSN < start.LSN || stop.Segment < start.Segment ||
			!strings.Contains(stop.BackupLabel, "LABEL: a label\n") || !strings.Contains(stop.TablespaceMap, " /tmp/") {
			t.Errorf("backup is %+v to %+v", start, stop)
		}

		// A second one is another connection; both are there at the same time.
		other, err := h.Connect(ctx)
		must(t, err)
		must(t, other.Alive(ctx))
		must(t, s.Alive(ctx))
		must(t, other.Close(ctx))
		must(t, other.Close(ctx))
		if err := other.Alive(ctx); err == nil {
			t.Error("a session that was closed is alive")
		}
	})
}

// backends counts the connections of the host under test.
func backends(c *pgtest.Cluster) string {
	return c.QueryValue("select count(*) from pg_stat_activity where application_name = 'agent test'")
}

// However a session ends, its backup ends with it.
func TestHostBackupEnds(t *testing.T) {
	c := cluster(t)
	how := pgsql.BackupStart{Label: "x", Fast: true}
	hosts(t, c, func(t *testing.T, h agent.Host) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, err := h.Connect(ctx)
		must(t, err)
		_, err = s.StartBackup(ctx, how)
		must(t, err)
		cancel()
		must(t, s.Close(ctx))
		if n := backends(c); n != "0" {
			t.Errorf("%s connections are left", n)
		}

		// While it waits for a checkpoint that is not urgent.
		c.Exec("update t set i = i + 1")
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		s, err = h.Connect(ctx)
		must(t, err)
		failed := make(chan error, 1)
		go func() {
			_, err := s.StartBackup(ctx, pgsql.BackupStart{Label: "x"})
			failed <- err
		}()
		pgtest.Eventually(t, "backup start", func() bool {
			return c.QueryValue("select count(*) from pg_stat_activity where application_name = 'agent test' and query like '%pg_backup_start%' and state = 'active'") == "1"
		})
		cancel()
		if err := <-failed; !isCancelled(err) {
			t.Errorf("error is %v", err)
		}
		_ = s.Close(ctx) // may have been lost by cancelling
		pgtest.Eventually(t, "the end of the connection", func() bool { return backends(c) == "0" })
	})

	t.Run("lost", func(t *testing.T) {
		r := newRemote(t, func() protocol.Service { return agent.BackupService(local(c)) })
		h := agent.NewClient(r.pool(agent.RoleBackup, 4))
		s, err := h.Connect(t.Context())
		must(t, err)
		_, err = s.StartBackup(t.Context(), how)
		must(t, err)
		r.cut()
		pgtest.Eventually(t, "the end of the connection", func() bool { return backends(c) == "0" })
		wantCode(t, s.Alive(t.Context()), errs.HostConnect)
		began := time.Now()
		wantCode(t, s.Close(t.Context()), errs.HostConnect)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("to close took %s", took)
		}

		// The next one works, and is the only one.
		s, err = h.Connect(t.Context())
		must(t, err)
		_, err = s.StartBackup(t.Context(), how)
		must(t, err)
		_, err = s.StopBackup(t.Context())
		must(t, err)
		must(t, s.Close(t.Context()))
	})

	t.Run("no server", func(t *testing.T) {
		c.Stop(pgtest.Fast)
		hosts(t, c, func(t *testing.T, h agent.Host) {
			_, err := h.Connect(t.Context())
			wantCode(t, err, errs.DbConnect)
		})
	})
}

// TestHostSummaries: near and far, the same is told of what has changed.
func TestHostSummaries(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Major: pgtest.Majors(t, 18)[0], Checksums: true, Config: map[string]string{"summarize_wal": "on"}})
	c.Start()
	hosts(t, c, func(t *testing.T, h agent.Host) {
		s, err := h.Connect(t.Context())
		must(t, err)
		defer func() { must(t, s.Close(t.Context())) }()
		redo := func() postgres.LSN {
			c.Exec("checkpoint")
			f, err := s.Facts(t.Context())
			must(t, err)
			return f.Redo
		}
		of := pgsql.SummaryRange{Timeline: 1, From: redo()}
		c.Exec("create table if not exists t (g int); insert into t select g from generate_series(1, 1000) g; create database d; drop database d")
		of.To = redo()
		pgtest.Eventually(t, "WAL summaries", func() bool {
			state, err := s.Summaries(t.Context())
			must(t, err)
			return state.Enabled && state.Written >= of.To
		})
		all, err := s.Changed(t.Context(), of)
		if err != nil || !slices.ContainsFunc(all, func(c pgsql.Changed) bool { return c.Node == 0 && c.Onward }) ||
			!slices.ContainsFunc(all, func(c pgsql.Changed) bool { return c.Database == 5 && c.Node >= 16384 && c.Main }) {
			t.Errorf("%d changes, %v", len(all), err)
		}
		_, err = s.Changed(t.Context(), pgsql.SummaryRange{Timeline: 1, From: of.From + 8, To: of.To})
		wantCode(t, err, errs.FileMissing)
		if _, err = s.Changed(t.Context(), pgsql.SummaryRange{Timeline: 1, From: of.To, To: of.From}); err == nil {
			t.Error("a range that is none is not refused")
		}
		must(t, s.Alive(t.Context()))
	})
}
