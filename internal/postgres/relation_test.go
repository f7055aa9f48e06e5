package postgres_test

import (
	"testing"

	"github.com/pgx-backup/pgx/internal/postgres"
)

func TestRelationOf(t *testing.T) {
	for name, want := range map[string]struct {
		relation postgres.Relation
		fork     postgres.Fork
		segment  uint32
	}{
		"pg_data/base/5/1259":                          {postgres.Relation{Tablespace: 1663, Database: 5, Node: 1259}, postgres.MainFork, 0},
		"pg_data/base/5/1259.7":                        {postgres.Relation{Tablespace: 1663, Database: 5, Node: 1259}, postgres.MainFork, 7},
		"pg_data/base/5/1259_vm.1":                     {postgres.Relation{Tablespace: 1663, Database: 5, Node: 1259}, postgres.VMFork, 1},
		"pg_data/base/4294967295/4294967295_fsm":       {postgres.Relation{Tablespace: 1663, Database: 4294967295, Node: 4294967295}, postgres.FSMFork, 0},
		"pg_data/global/1260":                          {postgres.Relation{Tablespace: 1664, Node: 1260}, postgres.MainFork, 0},
		"pg_tblspc/16400/PG_17_202406281/5/16401_init": {postgres.Relation{Tablespace: 16400, Database: 5, Node: 16401}, postgres.InitFork, 0},
	} {
		relation, fork, segment, ok := postgres.RelationOf(name)
		if !ok || relation != want.relation || fork != want.fork || segment != want.segment {
			t.Errorf("%s is segment %d of '%s' of %+v, %t", name, segment, fork, relation, ok)
		}
	}
	for _, name := range []string{
		"", "1259", "pg_data/1259", "pg_data/base/1259", "pg_data/base/5/PG_VERSION", "pg_data/base/5/pg_filenode.map", "pg_data/base/5x/1259",
		"pg_data/base/5/t3_16384", "pg_data/base/5/6/1259", "pg_data/base/5/1259.x", "pg_data/base/5/1259_main", "pg_data/base/5/4294967296",
		"pg_data/base/4294967296/1259", "pg_data/global/pg_control", "pg_data/global/5/1260", "pg_data/pg_xact/0000", "pg_data/pg_multixact/0000",
		"pg_data/pg_tblspc/16400/PG_17_202406281/5/16401", "pg_tblspc/16400/5/16401", "pg_tblspc/x/PG_17_202406281/5/16401",
		"pg_tblspc/16400/XX_17/5/16401", "other/base/5/1259",
	} {
		if relation, _, _, ok := postgres.RelationOf(name); ok {
			t.Errorf("'%s' is of %+v", name, relation)
		}
	}
}
