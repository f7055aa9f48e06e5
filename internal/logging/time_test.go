package logging_test

import (
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/logging"
)

func TestTime(t *testing.T) {
	at := time.Date(2026, 11, 21, 8, 20, 11, 0, time.UTC)
	for offset, want := range map[int]string{
		0: "2026-11-21 08:20:11+00", -5 * 3600: "2026-11-21 03:20:11-05", 5*3600 + 1800: "2026-11-21 13:50:11+05:30", -3*3600 - 1800: "2026-11-21 04:50:11-03:30",
	} {
		if got := logging.Time(at.In(time.FixedZone("", offset))); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
