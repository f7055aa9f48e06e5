package postgres

import (
	"strconv"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// BackupLabel is what backup_label tells PostgreSQL about the backup it is in.
type BackupLabel struct {
	Start       LSN      // replay starts here
	Segment     string   // the segment that contains Start
	Timeline    Timeline // of the backup
	Checkpoint  LSN      // of the record of the checkpoint that began the backup
	FromStandby bool     // taken while the cluster was in recovery
	Label       string   // as given to the function that started the backup
}

// ParseBackupLabel reads the text that PostgreSQL returns at the end of a backup, or the
// file made of it. Lines not known are skipped, versions differ in them. A label without
// start or checkpoint, or one that contradicts itself, is a Format error.
func ParseBackupLabel(b []byte) (BackupLabel, error) {
	values := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		// The first one counts: the label is free text and could contain any line, and what
		// matters most comes before it.
		if _, seen := values[key]; ok && !seen {
			values[key] = value
		}
	}
	bad := func(format string, args ...any) (BackupLabel, error) {
		return BackupLabel{}, errs.Wrap(errs.New(errs.Format, format, args...), "invalid backup_label")
	}
	start, file, ok := strings.Cut(values["START WAL LOCATION"], " (file ")
	segment, closed := strings.CutSuffix(file, ")")
	if !ok || !closed {
		return bad("START WAL LOCATION is missing or not 'LSN (file SEGMENT)'")
	}
	label := BackupLabel{Segment: segment, FromStandby: values["BACKUP FROM"] == "standby", Label: values["LABEL"]}
	var err error
	if label.Start, err = ParseLSN(start); err != nil {
		return bad("START WAL LOCATION: %w", err)
	}
	name, err := ParseWALName(segment)
	if err != nil || name.Kind != Segment {
		return bad("START WAL LOCATION: '%s' is not the name of a WAL segment", segment)
	}
	label.Timeline = name.Timeline
	if label.Checkpoint, err = ParseLSN(values["CHECKPOINT LOCATION"]); err != nil {
		return bad("CHECKPOINT LOCATION: %w", err)
	}
	if tli, ok := values["START TIMELINE"]; ok {
		if n, err := strconv.ParseUint(tli, 10, 32); err != nil || Timeline(n) != label.Timeline {
			return bad("START TIMELINE '%s' is not that of segment '%s'", tli, segment)
		}
	}
	return label, nil
}
