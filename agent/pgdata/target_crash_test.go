package pgdata_test

import (
	"context"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
)

// countdown is a context that ends when it has been asked n times.
type countdown struct {
	context.Context
	left atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// Wherever a restore stops, what is left cannot start unless nothing was changed or all
// was done, and a restore with delta takes it up.
func TestStoppedAnywhere(t *testing.T) {
	for _, existing := range []bool{false, true} {
		for n := int64(0); ; n++ {
			s := newSmall(t)
			s.content["pg_data/global/pg_control"] = "new control"
			if existing {
				s.layout.Clean = true
				s.write("PG_VERSION", "15\n")
				s.write("global/pg_control", "old control")
				s.write("base/2/1", "not in the backup")
			}
			ctx := &countdown{Context: t.Context()}
			ctx.left.Store(n)
			err := s.restore(ctx)
			_ = s.target.Close()
			if err == nil {
				break
			}
			if errs.CodeOf(err) != errs.Term {
				t.Fatalf("stopped at %d: %v", n, err)
			}
			control, _ := os.ReadFile(s.dir + "/global/pg_control")
			switch {
			case string(control) == "old control":
				if !s.exists("base/2/1") || s.exists("base/1") {
					t.Fatalf("stopped at %d: what was changed can be started", n)
				}
			case len(control) > 0 && s.exists("backup.manifest"):
				t.Fatalf("stopped at %d: it can be started, and is marked", n)
			}

			s.open()
			recognised, err := s.target.Check(t.Context())
			must(t, err)
			if !recognised && s.exists("") {
				t.Fatalf("stopped at %d: a restore with delta would refuse it", n)
			}
			s.layout.Clean = recognised
			if err := s.restore(t.Context()); err != nil {
				t.Fatalf("stopped at %d, taken up: %v", n, err)
			}
			for name, want := range s.content {
				got, err := os.ReadFile(s.dir + strings.TrimPrefix(name, "pg_data"))
				must(t, err)
				if string(got) != want {
					t.Fatalf("stopped at %d, taken up: '%s' has other content", n, name)
				}
			}
			if s.exists("base/2") || s.exists("backup.manifest") {
				t.Fatalf("stopped at %d, taken up: something is left", n)
			}
		}
	}
}

func (s *small) restore(ctx context.Context) error {
	err := s.target.Begin(ctx, s.layout, func(w io.Writer) error {
		_, err := io.WriteString(w, "marker")
		return err
	})
	for _, name := range []string{"pg_data/PG_VERSION", "pg_data/base/1/2600", "pg_data/base/1/empty",
		"pg_data/global/pg_control", "pg_data/postgresql.conf"} {
		if err == nil {
			err = s.target.Put(ctx, s.file(name, s.content[name]), strings.NewReader(s.content[name]))
		}
	}
	if err == nil {
		err = s.target.Finish(ctx, false)
	}
	return err
}
