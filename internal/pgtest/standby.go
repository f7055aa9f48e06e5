package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
)

// Standby makes a standby of a running cluster, which replicates by streaming. It is on
// host, by default on this machine, and reaches the primary with conninfo, by default
// through its socket. Tablespaces, which only one on this machine can have, get directories of
// its own. Start starts it.
func (c *Cluster) Standby(host Host, conninfo string) *Cluster {
	c.t.Helper()
	var s *Cluster
	if host == nil {
		s = Attach(c.t, c.Major, filepath.Join(Dir(c.t), "data"))
	} else {
		s = onHost(c.t, c.Major, host)
	}
	if conninfo == "" {
		conninfo = fmt.Sprintf("host=%s port=%d user=postgres", c.SocketDir, c.Port)
	}
	args := []string{"-D", s.PGDATA, "-c", "fast", "-X", "stream", "--no-sync"}
	for _, row := range c.Query("select pg_tablespace_location(oid) from pg_tablespace where pg_tablespace_location(oid) <> ''") {
		args = append(args, "--tablespace-mapping="+row[0]+"="+Dir(c.t))
	}
	run(c.t, c.Command("pg_basebackup", args...))
	s.Configure(map[string]string{"primary_conninfo": conninfo})
	signal := filepath.Join(s.PGDATA, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	uid, gid := Owner(c.t)
	if err := os.Lchown(signal, uid, gid); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// Follows waits until the cluster, a standby, has replayed all that its primary has written.
func (c *Cluster) Follows(primary *Cluster) {
	c.t.Helper()
	lsn := primary.QueryValue("select pg_current_wal_lsn()")
	Eventually(c.t, "replay on the standby", func() bool {
		return c.QueryValue("select pg_last_wal_replay_lsn() >= '"+lsn+"'") == "t"
	})
}
