package logging

import "time"

// Time writes a time, in its own zone, as reports show it: with the offset from UTC in
// hours, and minutes only if there are any (pgBackRest's strNewTimeP).
func Time(t time.Time) string {
	layout := "2006-01-02 15:04:05-07"
	if _, offset := t.Zone(); offset%3600 != 0 {
		layout += ":00"
	}
	return t.Format(layout)
}
