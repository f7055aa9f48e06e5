package restore

import (
	"fmt"
	"strconv"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// Type says where recovery ends, or what is done instead of recovery.
type Type string

// The values of the option type.
const (
	Default   Type = "default"   // at the end of the archive
	Immediate Type = "immediate" // as soon as the cluster is consistent
	LSN       Type = "lsn"
	Name      Type = "name"
	None      Type = "none" // no recovery settings at all
	Preserve  Type = "preserve"
	Standby   Type = "standby"
	Time      Type = "time"
	XID       Type = "xid"
)

// A moment is a target time as it was understood.
type moment struct {
	time.Time
	zoned bool // the text named its zone
}

// parseTime reads a target time: YYYY-MM-DD HH:MM:SS, then optional fractions of a
// second, which are dropped, then an optional offset. Without one the time is local to
// loc. What else PostgreSQL understands, such as names of zones, is not read.
func parseTime(s string, loc *time.Location) (moment, error) {
	const layout = "2006-01-02 15:04:05"
	bad := errs.New(errs.Format, "invalid date/time %s", s)
	if len(s) < len(layout) {
		return moment{}, bad
	}
	base, rest := s[:len(layout)], s[len(layout):]
	if len(rest) >= 2 && (rest[0] == '.' || rest[0] == ',') {
		rest = rest[1:]
		for rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			rest = rest[1:]
		}
	}
	zoned := rest != ""
	if zoned {
		offset, err := parseOffset(rest)
		if err != nil {
			return moment{}, bad
		}
		loc = time.FixedZone("", offset)
	}
	at, err := time.ParseInLocation(layout, base, loc)
	if err != nil {
		return moment{}, bad
	}
	return moment{at, zoned}, nil
}

// parseOffset reads ±HH, ±HHMM or ±HH:MM and gives seconds.
func parseOffset(s string) (int, error) {
	bad := errs.New(errs.Format, "invalid offset %s", s)
	digits := s[1:]
	if len(digits) == 5 && digits[2] == ':' {
		digits = digits[:2] + digits[3:]
	}
	if len(digits) != 2 && len(digits) != 4 {
		return 0, bad
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return 0, bad
	}
	if len(digits) == 2 {
		n *= 100
	}
	// The offsets in use reach from -12 to +14 hours.
	if n/100 > 15 || n%100 > 59 {
		return 0, bad
	}
	seconds := int(n/100*3600 + n%100*60)
	switch s[0] {
	case '+':
		return seconds, nil
	case '-':
		return -seconds, nil
	}
	return 0, bad
}

// goal is the recovery target of a restore, understood as far as it has to be.
type goal struct {
	kind   Type
	text   string // what PostgreSQL is told
	moment moment // of Time, if known
	lsn    postgres.LSN
}

// readGoal understands the target. Only a set that is chosen by time needs the time:
// with one given, PostgreSQL alone decides what the text means.
func (r *run) readGoal() (goal, error) {
	g := goal{kind: r.cfg.Type, text: r.cfg.TargetValue}
	switch g.kind {
	case Time:
		at, err := parseTime(g.text, r.now.Location())
		if err != nil && r.cfg.Set != "" {
			return g, nil
		}
		if err != nil {
			return g, errs.WithHint(errs.New(errs.Format,
				"automatic backup set selection cannot be performed with provided time '%s'", g.text),
				"time format must be YYYY-MM-DD HH:MM:SS with optional msec and optional timezone (+/- HH or HHMM or"+
					" HH:MM) - if timezone is omitted, local time is assumed (for UTC use +00)")
		}
		g.moment = at
		if !at.zoned {
			// PostgreSQL would take the text in the zone of its own configuration, which may
			// be another than the one this process chose the backup in.
			g.text += at.Format("-07:00")
			r.log.Info(fmt.Sprintf("target time '%s' has no timezone, taken as '%s'", r.cfg.TargetValue, g.text))
		}
	case LSN:
		lsn, err := postgres.ParseLSN(g.text)
		if err != nil {
			return g, err
		}
		g.lsn = lsn
	}
	return g, nil
}
