package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/sshtest"
)

// TestAsyncAgent: a resident agent is the worker on its host, also for pushes that are not
// asynchronous by configuration, and not missed when it has gone.
func TestAsyncAgent(t *testing.T) {
	s := newSite(t, pgtest.Options{}, map[string]string{"log-level-console": "info"})
	sshtest.Keygen(t, filepath.Join(s.dir, "client"), "ed25519", "")
	key, err := os.ReadFile(filepath.Join(s.dir, "client.pub"))
	if err != nil {
		t.Fatal(err)
	}
	// archived waits until the next segment has been archived, and gives what its push said.
	archived := func(what string) {
		t.Helper()
		before := len(s.pg.Log())
		s.pg.Exec(`create table if not exists t (id int)`)
		s.pg.Exec(`insert into t select 1`)
		segment := s.pg.QueryValue(`select pg_walfile_name(pg_switch_wal())`)
		want := fmt.Sprintf("pushed WAL file '%s' to the archive%s", segment, what)
		pgtest.Eventually(t, want, func() bool { return strings.Contains(s.pg.Log()[before:], want) })
	}
	archived(" exec-id=")

	agent := s.command(pgxPath(), "agent", "--agent-address=127.0.0.1", fmt.Sprintf("--agent-port=%d", sshtest.FreePort(t)),
		"--agent-host-key="+filepath.Join(s.empty("keys"), "host_key"), "--agent-client=backup demo "+strings.TrimSpace(string(key)))
	log, err := os.Create(filepath.Join(s.dir, "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	agent.Stdout, agent.Stderr = log, log
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = agent.Process.Kill()
			_ = agent.Wait()
		}
	})
	claim := filepath.Join(s.dir, "spool", "archive", "demo", "push.worker")
	pgtest.Eventually(t, "the agent to serve the stanza", func() bool {
		b, err := os.ReadFile(claim)
		return err == nil && strings.HasSuffix(string(b), "/pg_wal")
	})
	archived(" asynchronously")
	archived(" asynchronously")

	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended = true
	if err := agent.Wait(); err != nil {
		said, _ := os.ReadFile(log.Name())
		t.Fatalf("agent: %v\n%s", err, said)
	}
	archived(" exec-id=")
	if failed := s.pg.QueryValue(`select failed_count from pg_stat_archiver`); failed != "0" {
		t.Errorf("%s pushes have failed", failed)
	}
}
