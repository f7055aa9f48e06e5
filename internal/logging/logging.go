// Package logging writes what pgx says about its work in the line that
// pgBackRest writes, because scripts and monitoring read that line:
//
//	2026-01-02 15:04:05.123 P00   INFO: message
//
// A Handler has three places to write to, each with a level of its own: standard
// output, standard error and the log file of the command. Everyone else is handed a
// *slog.Logger made from it.
//
// The values an operator needs are in the message; attributes are for machines and
// are written, as " key=value", to debug and trace lines only. Exceptions are
// the attributes this package makes: Process, Code and Bare change how a line
// looks.
package logging

import (
	"fmt"
	"log/slog"
	"math"

	"github.com/pgx-backup/pgx/internal/errs"
)

// The levels pgBackRest has beside slog's, and Off, which no message reaches.
const (
	LevelDetail = slog.Level(-2)
	LevelTrace  = slog.Level(-8)
	LevelOff    = slog.Level(math.MaxInt32)
)

// ParseLevel reads a value of the options log-level-console, log-level-stderr and
// log-level-file: off, error, warn, info, detail, debug or trace.
func ParseLevel(name string) (slog.Level, error) {
	switch name {
	case "off":
		return LevelOff, nil
	case "error":
		return slog.LevelError, nil
	case "warn":
		return slog.LevelWarn, nil
	case "info":
		return slog.LevelInfo, nil
	case "detail":
		return LevelDetail, nil
	case "debug":
		return slog.LevelDebug, nil
	case "trace":
		return LevelTrace, nil
	}
	return 0, errs.New(errs.OptionInvalidValue,
		"'%s' is not a log level: allowed are off, error, warn, info, detail, debug, trace", name)
}

// levelName gives the word in the line. A level between two names is called by the
// next less severe one that has a name.
func levelName(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "ERROR"
	case l >= slog.LevelWarn:
		return "WARN"
	case l >= slog.LevelInfo:
		return "INFO"
	case l >= LevelDetail:
		return "DETAIL"
	case l >= slog.LevelDebug:
		return "DEBUG"
	}
	return "TRACE"
}

// The keys of the attributes that shape a line. A key that no caller writes by
// chance keeps them apart from ordinary attributes.
const (
	keyProcess = "logging.process"
	keyBare    = "logging.bare"
)

// Process numbers the worker a line comes from: P00 is the command itself, P01 the
// first worker. A worker's logger is made with log.With(logging.Process(n)).
func Process(n int) slog.Attr { return slog.Int(keyProcess, n) }

// Code gives an error line its "[ccc]: ". An attribute whose value is an error does
// so too; a line of level error without either has the code of errs.Unknown.
func Code(c errs.Code) slog.Attr { return slog.Any("code", c) }

// Bare makes a line the message alone, without time, process and level, as
// pgBackRest writes "terminated on signal SIGTERM".
func Bare() slog.Attr { return slog.Bool(keyBare, true) }

// Redacted is what a Secret shows of itself.
const Redacted = "<redacted>"

// Secret is a value that must not be seen: a password, a key, a passphrase. However
// it is printed, logged or marshalled, the text is Redacted. The zero Secret is empty.
type Secret struct {
	// A pointer, because package fmt prints an unexported field of a caller's struct
	// without asking its methods, but does not follow pointers there.
	value *string
}

// NewSecret hides value.
func NewSecret(value string) Secret { return Secret{&value} }

// Reveal gives the value itself, for the one place that uses it.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Format prints Redacted for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) }

// String gives Redacted.
func (s Secret) String() string { return Redacted }

// LogValue gives Redacted.
func (s Secret) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText gives Redacted; JSON and TOML use it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }
