package postgres_test

import (
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/postgres"
)

func TestRelationFile(t *testing.T) {
	type relation struct {
		node    uint32
		fork    postgres.Fork
		segment uint32
	}
	for in, want := range map[string]relation{
		"16384":                            {16384, postgres.MainFork, 0},
		"pg_data/base/5/16384.12":          {16384, postgres.MainFork, 12},
		"16384_fsm":                        {16384, postgres.FSMFork, 0},
		"16384_vm.3":                       {16384, postgres.VMFork, 3},
		"pg_tblspc/1/PG_15_2/5/4294967295": {4294967295, postgres.MainFork, 0},
		"16384_init":                       {16384, postgres.InitFork, 0},
	} {
		node, fork, segment, ok := postgres.RelationFile(in)
		if got := (relation{node, fork, segment}); got != want || !ok {
			t.Errorf("'%s': %+v, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "PG_VERSION", "pg_filenode.map", "16384.", "16384_", "16384_x", "_fsm", ".1", "16384.1_fsm",
		"t3_16384", "4294967296", "16384_fsm_vm", "16384.-1", "16384.1.2", "base/", "16384.4294967296"} {
		if node, fork, segment, ok := postgres.RelationFile(in); ok {
			t.Errorf("'%s': %d %s %d", in, node, fork, segment)
		}
	}
}

func TestIsTemporaryRelation(t *testing.T) {
	for in, want := range map[string]bool{
		"t3_16384": true, "pg_data/base/5/t123_16384.1": true, "t3_16384_fsm": true, "t3_16384_vm.2": true,
		"16384": false, "t_16384": false, "t3_": false, "t3_x": false, "t3": false, "tx_1": false, "t3_1_init": false, "": false, "_1": false,
	} {
		if postgres.IsTemporaryRelation(in) != want {
			t.Errorf("'%s' is not %v", in, want)
		}
	}
}

func TestUnloggedInit(t *testing.T) {
	for in, want := range map[string]string{
		"pg_data/base/5/16384":                          "pg_data/base/5/16384_init",
		"pg_data/base/5/16384.7":                        "pg_data/base/5/16384_init",
		"pg_data/global/1262_vm":                        "pg_data/global/1262_init",
		"pg_tblspc/16400/PG_15_202209061/5/16401_fsm.1": "pg_tblspc/16400/PG_15_202209061/5/16401_init",
		"pg_data/base/5/16384_init":                     "",
		"pg_data/base/5/t3_16384":                       "",
		"pg_data/pg_wal/16384":                          "",
		"pg_data/16384":                                 "",
		"16384":                                         "",
	} {
		if got, ok := postgres.UnloggedInit(in); got != want || ok != (want != "") {
			t.Errorf("'%s': '%s', %v", in, got, ok)
		}
	}
}

func TestHasPages(t *testing.T) {
	for in, want := range map[string]bool{
		"pg_data/base/5/1259": true, "pg_data/base/5/1259_fsm": true, "pg_data/base/5/16384_init": true, "pg_data/base/5/1259.1": true,
		"pg_data/global/1262": true, "pg_tblspc/16400/PG_15_202209061/5/16401": true,
		// Every other file in such a directory, as pgBackRest has it.
		"pg_data/base/5/left_by_somebody": true,

		"pg_data/base/5/PG_VERSION": false, "pg_data/base/5/pg_filenode.map": false, "pg_data/global/pg_filenode.map": false,
		"pg_data/global/pg_control": false, "pg_data/PG_VERSION": false, "pg_data/pg_xact/0000": false, "pg_data/base/1259": false,
		"pg_data/base/5/sub/1259": false, "pg_data/base/x/1259": false, "pg_data/pg_wal/000000010000000000000001": false,
		"pg_tblspc/16400/PG_15_202209061/16401": false, "pg_tblspc/16400/5/16401": false, "pg_data/globalx/1": false,
		"pg_tblspc/16400/PG_15_202209061/5/x/16401": false, "1259": false, "": false,
	} {
		if postgres.HasPages(in) != want {
			t.Errorf("'%s' is not %v", in, want)
		}
	}
}

func TestFirstBlock(t *testing.T) {
	for in, want := range map[string]uint32{
		"pg_data/base/5/16384": 0, "pg_data/base/5/16384.1": 131072, "16384.3": 393216, "16384_fsm.2": 262144,
		"pg_data/base/5.1/16384": 0, "16384.x": 0, "16384.": 0, "x.99999999999": 0,
	} {
		if got := postgres.FirstBlock(in, segmentPages); got != want {
			t.Errorf("'%s': %d", in, got)
		}
	}
}

func TestGrowthReplayed(t *testing.T) {
	for in, want := range map[string]bool{
		"pg_data/base/5/1259": true, "pg_data/global/1262": true, "pg_data/pg_xact/0000": true,
		"pg_data/pg_multixact/offsets/0000": true, "pg_tblspc/16400/PG_15_202209061/5/16401": true,
		"pg_data/global/pg_control": false, "pg_data/postgresql.conf": false, "pg_data/pg_commit_ts/0000": false,
		"pg_data/pg_wal/summaries/x.summary": false, "pg_data/based/1": false,
	} {
		if postgres.GrowthReplayed(in) != want {
			t.Errorf("'%s' is not %v", in, want)
		}
	}
}

func TestExcludedFile(t *testing.T) {
	for _, test := range []struct {
		name            string
		online, offline bool
	}{
		{"pg_data/backup_label", true, true}, {"pg_data/backup_label.old", true, true}, {"pg_data/postmaster.pid", true, true},
		{"pg_data/postmaster.opts", true, true}, {"pg_data/postgresql.auto.conf.tmp", true, true},
		{"pg_data/recovery.signal", true, true}, {"pg_data/standby.signal", true, true},
		{"pg_data/backup_manifest", true, true}, {"pg_data/backup_manifest.tmp", true, true},
		{"pg_data/tablespace_map", false, false}, {"pg_data/postgresql.auto.conf", false, false}, {"pg_data/recovery.conf", false, false},
		{"pg_data/sub/backup_label", false, false},
		{"pg_data/pg_wal/000000010000000000000001", true, false}, {"pg_data/pg_wal/00000002.history", true, false},
		{"pg_data/pg_wal/summaries/x.summary", false, false},
		{"pg_data/base/5/pg_internal.init", true, true}, {"pg_data/global/pg_internal.init", true, true},
		{"pg_data/global/pg_internal.init.4711", true, true}, {"pg_data/base/5/pg_internal.init.x", false, false},
		{"pg_data/base/5/pg_internal.initx", false, false}, {"pg_data/pg_internal.init", false, false},
		{"pg_data/base/5/t3_16384", true, true}, {"pg_tblspc/16400/PG_15_202209061/5/t3_16384_fsm", true, true},
		{"pg_data/t3_16384", false, false}, {"pg_data/base/5/16384", false, false}, {"pg_data/base/5/16384_init", false, false},
		{"pg_data/base/pgsql_tmp/pgsql_tmp123.0", true, true}, {"pg_data/pgsql_tmpx", true, true},
		{"pg_data/global/pg_control", false, false}, {"pg_data/base/5/PG_VERSION", false, false},
	} {
		if got := postgres.ExcludedFile(test.name, 15, true); got != test.online {
			t.Errorf("'%s' online: %v", test.name, got)
		}
		if got := postgres.ExcludedFile(test.name, 15, false); got != test.offline {
			t.Errorf("'%s' offline: %v", test.name, got)
		}
		if got := postgres.ExcludedFile(test.name, 12, true); got != (test.online && !strings.Contains(test.name, "backup_manifest")) {
			t.Errorf("'%s' of 12: %v", test.name, got)
		}
	}
}

func TestExcludedDirectories(t *testing.T) {
	for in, want := range map[string]bool{
		"pg_data/base/pgsql_tmp": true, "pg_tblspc/16400/PG_15_202209061/pgsql_tmp": true, "pg_data/base/pgsql_tmp/pgsql_tmp1.fileset": true,
		"pg_data/base": false, "pg_data/pg_notify": false, "pg_data/xpgsql_tmp": false,
	} {
		if postgres.ExcludedDir(in) != want {
			t.Errorf("'%s' is not %v", in, want)
		}
	}
	for _, test := range []struct {
		name            string
		online, offline bool
	}{
		{"pg_data/pg_dynshmem", true, true}, {"pg_data/pg_notify", true, true}, {"pg_data/pg_replslot", true, true},
		{"pg_data/pg_serial", true, true}, {"pg_data/pg_snapshots", true, true}, {"pg_data/pg_stat_tmp", true, true},
		{"pg_data/pg_subtrans", true, true}, {"pg_data/pg_wal/archive_status", true, false},
		{"pg_data/pg_wal", false, false}, {"pg_data/pg_wal/summaries", false, false}, {"pg_data/base", false, false},
		{"pg_data/sub/pg_notify", false, false}, {"pg_data/pg_stat", false, false}, {"pg_data/pg_logical", false, false},
	} {
		if got := postgres.ExcludedContents(test.name, true); got != test.online {
			t.Errorf("'%s' online: %v", test.name, got)
		}
		if got := postgres.ExcludedContents(test.name, false); got != test.offline {
			t.Errorf("'%s' offline: %v", test.name, got)
		}
	}
}
