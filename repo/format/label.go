package format

import (
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
)

// BackupType is the type of a backup as info files spell it.
type BackupType string

// The types of backup.
const (
	Full BackupType = "full"
	Diff BackupType = "diff" // what changed since the last full
	Incr BackupType = "incr" // what changed since the last backup of any type
)

// ParseBackupType reads the name of a type. Any other is a Format error.
func ParseBackupType(s string) (BackupType, error) {
	switch t := BackupType(s); t {
	case Full, Diff, Incr:
		return t, nil
	}
	return "", errs.New(errs.Format, "'%s' is not a backup type", s)
}

// Label names a backup and its directory: "20261121-015206F" for a full one, that of
// its full with "_20261121-015214D" or "…I" for the others. The times are local to the
// process that made the backup. Labels of a stanza sort by time in byte order, so
// the operators < and > compare them.
//
// A Label made by ParseLabel or NewLabel is safe as an element of a path.
type Label string

const (
	stampLayout = "20060102-150405"
	fullLen     = len(stampLayout) + 1
	otherLen    = 2*fullLen + 1
)

// ParseLabel checks that s is a label. What is not one is a Format error.
func ParseLabel(s string) (Label, error) {
	valid := len(s) >= fullLen && stamp(s[:fullLen], "F")
	if valid && len(s) != fullLen {
		valid = len(s) == otherLen && s[fullLen] == '_' && stamp(s[fullLen+1:], "DI")
	}
	if !valid {
		return "", errs.New(errs.Format, "'%s' is not a backup label", s)
	}
	return Label(s), nil
}

// stamp says whether s is eight digits, a hyphen, six digits and one of kinds. That
// it is a time that exists is not asked, as pgBackRest does not ask.
func stamp(s, kinds string) bool {
	if !digits(s[:8], 8) || s[8] != '-' || !digits(s[9:15], 6) {
		return false
	}
	for i := range len(kinds) {
		if s[15] == kinds[i] {
			return true
		}
	}
	return false
}

// NewLabel makes the label of a backup that starts at start, in the time zone start
// has. A full backup has no prior; the others take their first part from that of
// prior, which may be any backup of the set.
func NewLabel(t BackupType, prior Label, start time.Time) Label {
	at := Label(start.Format(stampLayout))
	switch t {
	case Diff:
		return prior.Full() + "_" + at + "D"
	case Incr:
		return prior.Full() + "_" + at + "I"
	}
	return at + "F"
}

// Type gives the type of the backup, which the last character tells.
func (l Label) Type() BackupType {
	switch l[len(l)-1] {
	case 'D':
		return Diff
	case 'I':
		return Incr
	}
	return Full
}

// Full gives the label of the full backup of the set: of a full backup its own.
func (l Label) Full() Label { return l[:fullLen] }

// NextLabel gives a new backup a label that is later than those taken: the backup
// directories of the stanza and the labels in the newest year of its history. For a
// full backup all of them count, for the others those of the same set.
//
// When the label of start is not later, that of the second after is tried, and wait
// tells the caller to go on only when that second has begun. When that is not later
// either the clock is wrong, and the error says so (Clock).
func NextLabel(t BackupType, prior Label, start time.Time, taken []Label) (label Label, wait bool, err error) {
	var latest Label
	for _, l := range taken {
		if l > latest && (t == Full || l.Type() != Full && l.Full() == prior.Full()) {
			latest = l
		}
	}
	if label = NewLabel(t, prior, start); label > latest {
		return label, false, nil
	}
	if label = NewLabel(t, prior, start.Add(time.Second)); label > latest {
		return label, true, nil
	}
	err = errs.New(errs.Clock, "new backup label '%s' is not later than latest backup label '%s'", label, latest)
	return "", false, errs.WithHint(errs.WithHint(err, "has the timezone changed?"), "is there clock skew?")
}
