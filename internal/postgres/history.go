package postgres

import (
	"strconv"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// HistoryEntry is one line of a timeline history file: a timeline that was left.
type HistoryEntry struct {
	Timeline Timeline // the one left
	Switch   LSN      // where: WAL before it is of Timeline, from it on of the next entry's
	Reason   string   // PostgreSQL's, for people
}

// ParseHistory reads a timeline history file: the ancestors of its timeline, oldest first,
// so that the last entry is the parent. Blank lines and lines that begin with # are
// skipped. As in PostgreSQL, each timeline must be greater than the one before;
// what does not follow the form is a Format error.
func ParseHistory(b []byte) ([]HistoryEntry, error) {
	var entries []HistoryEntry
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.SplitN(line, "\t", 3)
		if len(fields) < 2 {
			return nil, errs.New(errs.Format, "invalid history line '%s': timeline and LSN are expected, separated by a tab", line)
		}
		tli, err := strconv.ParseUint(strings.TrimSpace(fields[0]), 10, 32)
		if err != nil || tli == 0 {
			return nil, errs.New(errs.Format, "invalid history line '%s': '%s' is not a timeline", line, fields[0])
		}
		lsn, err := ParseLSN(strings.TrimSpace(fields[1]))
		if err != nil {
			return nil, errs.Wrap(err, "invalid history line '%s'", line)
		}
		entry := HistoryEntry{Timeline: Timeline(tli), Switch: lsn}
		if n := len(entries); n > 0 && entry.Timeline <= entries[n-1].Timeline {
			return nil, errs.New(errs.Format, "invalid history line '%s': timelines must increase", line)
		}
		if len(fields) == 3 {
			entry.Reason = fields[2]
		}
		entries = append(entries, entry)
	}
	return entries, nil
}
