package pgdata_test

import (
	"testing"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
)

func TestKept(t *testing.T) {
	prior := &pgdata.Blocks{Prior: []byte{0}}
	expected := &pgdata.Expected{Size: 9, SHA1: [20]byte{1}}
	for _, c := range []struct {
		name     string
		expected *pgdata.Expected
		blocks   *pgdata.Blocks
		res      pipeline.Result
		kept     bool
		code     errs.Code
	}{
		{"something is stored", expected, prior, pipeline.Result{Size: 9, SHA1: [20]byte{1}, RepoSize: 5}, false, 0},
		{"it is empty by now", expected, prior, pipeline.Result{}, false, 0},
		{"as expected", expected, prior, pipeline.Result{Size: 9, SHA1: [20]byte{1}}, true, 0},
		{"nothing was expected", nil, prior, pipeline.Result{Size: 9, SHA1: [20]byte{1}}, true, 0},
		{"other content", expected, prior, pipeline.Result{Size: 9, SHA1: [20]byte{2}}, false, errs.Checksum},
		{"whole", expected, nil, pipeline.Result{Size: 9, SHA1: [20]byte{1}}, false, errs.Assert},
		{"without a prior map", expected, &pgdata.Blocks{}, pipeline.Result{Size: 9, SHA1: [20]byte{1}}, false, errs.Assert},
		{"whole and empty", nil, nil, pipeline.Result{}, false, 0},
		{"another size", expected, prior, pipeline.Result{Size: 8, SHA1: [20]byte{1}}, false, errs.Checksum},
	} {
		kept, err := pgdata.Read{Name: "x", Expected: c.expected, Blocks: c.blocks}.Kept(c.res)
		if kept != c.kept || c.code == 0 && err != nil || c.code != 0 && errs.CodeOf(err) != c.code {
			t.Errorf("%s: %t, %v", c.name, kept, err)
		}
	}
}
