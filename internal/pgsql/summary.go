package pgsql

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// FirstSummarizing is the first version of PostgreSQL that can summarize its WAL.
const FirstSummarizing postgres.Version = 17

// SummaryState says how far a server has summarized its WAL. The zero value is that of a server
// that does not.
type SummaryState struct {
	Enabled bool // by summarize_wal

	// All WAL before Written is in the summaries that there are, as far as it can be summarized;
	// all before Read will be in them. The summarizer is at work as long as Read moves.
	Written, Read postgres.LSN
}

// SummaryRange is the WAL of a timeline from the redo point of one checkpoint to that of another.
type SummaryRange struct {
	Timeline postgres.Timeline
	From, To postgres.LSN
}

// String gives the range as messages name it.
func (r SummaryRange) String() string { return fmt.Sprintf("from lsn = %s to lsn = %s", r.From, r.To) }

// Changed is something that WAL summaries name: a segment of a relation that has changed.
type Changed struct {
	// Node is 0 when the database was made or removed in the tablespace. Then nothing else that
	// is told of it counts: any of its relations may have changed.
	Tablespace uint32 `json:"tablespace"`
	Database   uint32 `json:"database,omitempty"`
	Node       uint32 `json:"node,omitempty"`

	// Main says that Segment is one of the main fork. Of other forks no segments are told.
	Main    bool   `json:"main,omitempty"`
	Segment uint32 `json:"segment,omitempty"`

	// Onward says that all segments that follow may have changed too: the relation was made
	// or removed, or truncated.
	Onward bool `json:"onward,omitempty"`
}

// Summaries says how far the server has summarized its WAL.
func (c *Conn) Summaries(ctx context.Context) (SummaryState, error) {
	if postgres.Version(c.version/10000) < FirstSummarizing {
		return SummaryState{}, nil
	}
	r, err := c.queryRow(ctx, "select pg_catalog.current_setting('summarize_wal')::pg_catalog.bool, summarized_lsn, pending_lsn"+
		" from pg_catalog.pg_get_wal_summarizer_state()", "pg_get_wal_summarizer_state()")
	if err != nil {
		return SummaryState{}, err
	}
	s := SummaryState{Enabled: r.bool(), Written: r.lsn(), Read: r.lsn()}
	return s, r.err
}

// Changed gives what has changed in a range of WAL, in no order and each once. It is all that was
// logged, and so not all that has changed: free space maps are not in it, and of a visibility
// map, with many releases, only what was set, while what is cleared with a change of the main
// fork is not. Summaries that do not cover all of the range are FileMissing.
//
// The summaries must begin and end where the range does. They do at redo points, those of the start of
// backups, so if they do not then this is not the WAL that the range was taken from.
func (c *Conn) Changed(ctx context.Context, r SummaryRange) ([]Changed, error) {
	if v := postgres.Version(c.version / 10000); v < FirstSummarizing {
		return nil, errs.New(errs.FileMissing, "PostgreSQL %s has no WAL summaries", v)
	}
	list, err := c.summaries(ctx, r)
	if err != nil {
		return nil, err
	}
	// The server groups, since it has a row for each block. The summaries are named, so that one that
	// has been removed in the meantime is an error.
	sql := "select content.reltablespace, content.reldatabase, content.relfilenode, content.relforknumber = 0," +
		" case when content.relforknumber = 0 then content.relblocknumber / segment.setting::pg_catalog.int8 else 0 end," +
		" content.is_limit_block and content.relforknumber = 0" +
		" from (values " + strings.Join(list, ", ") + ") as summary (tli, from_lsn, to_lsn)" +
		" join pg_catalog.pg_settings as segment on segment.name = 'segment_size'" +
		" cross join lateral pg_catalog.pg_wal_summary_contents(summary.tli, summary.from_lsn, summary.to_lsn) as content" +
		" group by 1, 2, 3, 4, 5, 6"
	var all []Changed
	name := fmt.Sprintf("contents of %d WAL summaries %s", len(list), r)
	err = c.each(ctx, sql, name, func(r *row) {
		all = append(all, Changed{
			Tablespace: r.uint32(), Database: r.uint32(), Node: r.uint32(), Main: r.bool(), Segment: r.uint32(), Onward: r.bool(),
		})
	}, "pg_wal_summary_contents(bigint, pg_lsn, pg_lsn)")
	if err != nil {
		return nil, err
	}
	return all, nil
}

// summaries gives the summaries of a range, each as the SQL of its timeline and bounds.
func (c *Conn) summaries(ctx context.Context, r SummaryRange) ([]string, error) {
	if r.From >= r.To {
		return nil, errs.New(errs.Assert, "there is no WAL %s", r)
	}
	rows, err := c.query(ctx, fmt.Sprintf("select start_lsn, end_lsn from pg_catalog.pg_available_wal_summaries()"+
		" where tli = %d and start_lsn >= '%s' and end_lsn <= '%s' order by start_lsn, end_lsn", r.Timeline, r.From, r.To),
		"pg_available_wal_summaries()")
	if err != nil {
		return nil, err
	}
	var list []string
	covered := r.From
	for _, row := range rows {
		from, to := row.lsn(), row.lsn()
		if row.err != nil {
			return nil, row.err
		}
		if from > covered {
			break
		}
		covered = max(covered, to)
		list = append(list, fmt.Sprintf("(%d::pg_catalog.int8, '%s'::pg_catalog.pg_lsn, '%s'::pg_catalog.pg_lsn)", r.Timeline, from, to))
	}
	if covered != r.To {
		return nil, errs.New(errs.FileMissing, "no WAL summary of timeline %d continues at lsn = %s", r.Timeline, covered)
	}
	return list, nil
}

// each runs one statement that may give many rows, and hands them over one by one. It may be long,
// so errors have its name.
func (c *Conn) each(ctx context.Context, sql, name string, do func(*row), needs ...string) error {
	if c.pg == nil {
		return errs.New(errs.DbQuery, "unable to execute query '%s': the connection is closed", name)
	}
	limited, cancel := ctx, context.CancelFunc(func() {})
	if c.timeout > 0 {
		limited, cancel = context.WithTimeout(ctx, c.timeout)
	}
	defer cancel()
	results := c.pg.Exec(limited, sql)
	var bad error
	for results.NextResult() {
		for in := results.ResultReader(); in.NextRow(); {
			r := row{sql: name, cells: in.Values()}
			if do(&r); bad == nil {
				bad = r.err
			}
		}
	}
	if err := results.Close(); err != nil {
		return c.queryFailed(ctx, limited, name, needs, err)
	}
	return bad
}

// uint32 reads an oid or the number of a block.
func (r *row) uint32() uint32 {
	v := r.text()
	n, err := strconv.ParseUint(v, 10, 32)
	if r.err == nil && err != nil {
		r.bad(v, "a number without sign")
	}
	return uint32(n)
}
