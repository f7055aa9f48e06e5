package pgsql_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/internal/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// superuser gives the parameters to connect to a cluster as its superuser.
func superuser(c *pgtest.Cluster) pgsql.Params {
	return pgsql.Params{
		SocketDir: c.SocketDir, Port: c.Port, User: "postgres", Database: "postgres",
		Timeout: time.Minute, Application: "pgx [test]",
	}
}

func connect(t *testing.T, p pgsql.Params) *pgsql.Conn {
	t.Helper()
	conn, err := pgsql.Connect(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(t.Context()); err != nil { // whose context has ended here
			t.Error(err)
		}
	})
	return conn
}

// archiving is what a backup needs of the server's configuration.
func archiving(more map[string]string) map[string]string {
	config := map[string]string{"wal_level": "replica", "archive_mode": "on", "archive_command": "true"}
	for name, value := range more {
		config[name] = value
	}
	return config
}

func each(t *testing.T, test func(t *testing.T, major int)) {
	for _, major := range pgtest.Majors(t, pgtest.Supported()...) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			test(t, major)
		})
	}
}

// The statements an operator is told to run are enough, on every version, and each of
// them is needed.
func TestGrants(t *testing.T) {
	page, err := os.ReadFile("../../docs/grants.md")
	if err != nil {
		t.Fatal(err)
	}
	// A section's statements, by the section's title.
	statements := map[string][]string{}
	for _, m := range regexp.MustCompile("(?s)\n## ([^\n]+)\n\n```sql\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		statements[m[1]] = strings.Split(strings.TrimSpace(m[2]), "\n")
	}
	if len(statements) != 4 {
		t.Fatalf("the page has %d sections with statements", len(statements))
	}
	each(t, func(t *testing.T, major int) {
		section := "PostgreSQL 15 and later"
		if major < 15 {
			section = "PostgreSQL 12 to 14"
		}
		sql := slices.Concat(statements["Every version"], statements[section])
		if len(sql) != 6 {
			t.Fatalf("statements are %q", sql)
		}
		cluster := pgtest.New(t, pgtest.Options{Major: major, WALSegSize: 1, Checksums: major == 17, Config: archiving(nil)})
		cluster.Start()
		dir := pgtest.Dir(t)
		cluster.Exec("create tablespace ts location '" + dir + "'; create database \"ΠG \"\"x\" tablespace ts;")
		p := superuser(cluster)
		p.User = "pgx"

		// Every grant that lacks is named, with the statement of the page to run.
		cluster.Exec(sql[0])
		conn := connect(t, p)
		_, err := conn.Facts(t.Context())
		wantError(t, err, errs.DbQuery, "unable to select some rows from pg_settings: user 'pgx' may not read data_directory"+
			"\nHINT: run as a superuser: GRANT pg_read_all_settings TO \"pgx\";")
		_, err = conn.StartBackup(t.Context(), pgsql.BackupStart{Label: "x", CheckArchive: true})
		if errs.CodeOf(err) != errs.DbQuery || len(errs.Hints(err)) != 4 {
			t.Errorf("start without grants: %v", err)
		}
		_, err = conn.SwitchWAL(t.Context())
		wantError(t, err, errs.DbQuery,
			"unable to execute query 'select pg_catalog.pg_create_restore_point('pgBackRest Archive Check')':"+
				" ERROR:  permission denied for function pg_create_restore_point"+
				"\nHINT: run as a superuser in database 'postgres': GRANT EXECUTE ON FUNCTION"+
				" pg_catalog.pg_create_restore_point(text) TO \"pgx\";")
		for _, hint := range errs.Hints(err) {
			_, statement, _ := strings.Cut(hint, ": ")
			if !slices.Contains(sql, strings.ReplaceAll(statement, `"pgx"`, "pgx")) {
				t.Errorf("'%s' is not on the page", statement)
			}
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}

		cluster.Exec(strings.Join(sql[1:], "\n"))
		backup(t, cluster, p, dir)
	})
}

// backup goes through a whole backup and compares all the server says with what is
// known of the cluster otherwise.
func backup(t *testing.T, cluster *pgtest.Cluster, p pgsql.Params, tablespaceDir string) {
	t.Helper()
	cluster.Exec("checkpoint") // the last one may be that of the template, which is older
	conn := connect(t, p)
	before, err := conn.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	num, _ := strconv.Atoi(cluster.QueryValue("show server_version_num"))
	id, _ := strconv.ParseUint(cluster.QueryValue("select system_identifier from pg_control_system()"), 10, 64)
	want := pgsql.Facts{
		ServerVersion: num, Version: postgres.Version(cluster.Major), SystemID: id, DataDirectory: cluster.PGDATA,
		Port: cluster.Port, ArchiveMode: "on", ArchiveCommand: "true", WALSegmentSize: 1 << 20, BlockSize: 8192,
		DataChecksums: cluster.Major == 17, CheckpointTimeout: 5 * time.Minute, Timeline: 1,
		Checkpoint: before.Checkpoint, Redo: before.Redo, CheckpointTime: before.CheckpointTime, Now: before.Now,
	}
	if before != want {
		t.Errorf("facts are\n%+v, not\n%+v", before, want)
	}
	if before.Checkpoint == 0 || before.Redo == 0 || before.Redo > before.Checkpoint {
		t.Errorf("last checkpoint at %v, redo at %v", before.Checkpoint, before.Redo)
	}
	for name, at := range map[string]time.Time{"checkpoint": before.CheckpointTime, "clock": before.Now} {
		if d := time.Since(at); d < -time.Second || d > time.Hour {
			t.Errorf("time of %s is %v", name, at)
		}
	}

	b, err := conn.StartBackup(t.Context(), pgsql.BackupStart{Label: "it's a backup", Fast: true, CheckArchive: true})
	if err != nil {
		t.Fatal(err)
	}
	if b.LSN <= before.Checkpoint || b.Time.Before(before.Now) || b.CheckSegment > b.Segment ||
		postgres.SegmentName(1, b.LSN, 1<<20) != b.Segment {
		t.Errorf("started: %+v", b)
	}
	facts, err := conn.Facts(t.Context())
	if err != nil || facts.Redo != b.LSN || facts.Checkpoint < b.LSN {
		t.Errorf("checkpoint of the backup: %+v, %v", facts, err)
	}

	databases, err := conn.Databases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range databases {
		got = append(got, fmt.Sprintf("%d %s %d", d.OID, d.Name, d.LastSystemOID))
	}
	var wantRows []string
	for _, r := range cluster.Query("select d.oid, d.datname, t.oid from pg_database d, pg_database t where t.datname = 'template0' order by d.oid") {
		wantRows = append(wantRows, strings.Join(r, " "))
	}
	if !slices.Equal(got, wantRows) || len(got) != 4 || !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, `ΠG "x`) }) {
		t.Errorf("databases are %q, not %q", got, wantRows)
	}
	tablespaces, err := conn.Tablespaces(t.Context())
	if err != nil || len(tablespaces) != 3 || tablespaces[2].Name != "ts" || tablespaces[2].OID < 16384 ||
		tablespaces[0] != (pgsql.Tablespace{Name: "pg_default", OID: 1663}) {
		t.Errorf("tablespaces are %v, %v", tablespaces, err)
	}
	if err := conn.Alive(t.Context()); err != nil {
		t.Error(err)
	}

	stop, err := b.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if stop.LSN <= b.LSN || stop.Segment < b.Segment || stop.Time.Before(b.Time) ||
		stop.TablespaceMap != fmt.Sprintf("%d %s\n", tablespaces[2].OID, tablespaceDir) ||
		!strings.HasPrefix(stop.BackupLabel, fmt.Sprintf("START WAL LOCATION: %v (file %s)\n", b.LSN, b.Segment)) ||
		!strings.Contains(stop.BackupLabel, "\nLABEL: it's a backup\n") {
		t.Errorf("stopped: %+v", stop)
	}
	// PostgreSQL's own record of the backup names the same segments.
	history := fmt.Sprintf("%s.%08X.backup", b.Segment, uint64(b.LSN)%(1<<20))
	text, err := os.ReadFile(filepath.Join(cluster.PGDATA, "pg_wal", history))
	if err != nil || !strings.Contains(string(text), fmt.Sprintf("STOP WAL LOCATION: %v (file %s)", stop.LSN, stop.Segment)) {
		t.Errorf("backup history file: %v\n%s", err, text)
	}

	// The connection can be used after a stop, and for another backup.
	point, err := conn.CreateRestorePoint(t.Context(), "it's")
	if err != nil || point < stop.LSN {
		t.Errorf("restore point at %v, %v", point, err)
	}
	segment, err := conn.SwitchWAL(t.Context())
	if err != nil || segment != postgres.SegmentName(1, point, 1<<20) {
		t.Errorf("switched %s, %v", segment, err)
	}
	if b, err = conn.StartBackup(t.Context(), pgsql.BackupStart{Label: "y", Fast: true}); err != nil || b.CheckSegment != "" {
		t.Errorf("second start: %+v, %v", b, err)
	}
	if _, err := b.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	wantError(t, conn.Alive(t.Context()), errs.DbQuery,
		"unable to execute query 'select pg_catalog.pg_is_in_recovery()': the connection is closed")
}

// A segment that had just been switched would not be handed to the archiver by the
// start of a backup; CheckArchive names one that is.
func TestCheckSegmentIsArchived(t *testing.T) {
	t.Parallel()
	archive := pgtest.Dir(t)
	cluster := pgtest.New(t, pgtest.Options{Config: archiving(map[string]string{"archive_command": "cp %p " + archive + "/%f"})})
	cluster.Start()
	for range 3 {
		conn := connect(t, superuser(cluster))
		b, err := conn.StartBackup(t.Context(), pgsql.BackupStart{Label: "x", Fast: true, CheckArchive: true})
		if err != nil {
			t.Fatal(err)
		}
		pgtest.Eventually(t, b.CheckSegment+" in the archive", func() bool {
			_, err := os.Stat(filepath.Join(archive, b.CheckSegment))
			return err == nil
		})
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func wantError(t *testing.T, err error, code errs.Code, want string) {
	t.Helper()
	if err == nil || errs.CodeOf(err) != code || err.Error() != want {
		t.Errorf("got [%d] %v\nwant [%d] %s", errs.CodeOf(err), err, code, want)
	}
}
