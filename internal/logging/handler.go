package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Options says where a Handler writes and how its lines look. A level left zero is
// info, so every sink that is not wanted is set to LevelOff.
type Options struct {
	// Stdout and Stderr are the console. A message that Stderr's level lets through
	// goes to Stderr and not to Stdout, in a shorter line without time and process.
	Stdout, Stderr           io.Writer
	StdoutLevel, StderrLevel slog.Level

	// File is the path of the log file, appended to and shared with other
	// processes; empty is none.
	File      string
	FileLevel slog.Level

	Timestamp  bool // lines begin with date and time (option log-timestamp)
	ProcessMax int  // above 99 the process number has three digits
	DryRun     bool // messages begin with "[DRY-RUN] "

	// ExecID, the UUID of this run, ends the first line of every record in the file as
	// " exec-id=UUID", and with ExecIDOnConsole on the console too. It stands at
	// the end so that what matches pgBackRest's lines from their beginning still
	// does. Under the name pgbackrest it is left empty.
	ExecID          string
	ExecIDOnConsole bool

	// Now is the clock; its location is the one the lines are in.
	Now func() time.Time
}

// Handler is a slog.Handler that writes pgBackRest's lines. Each record is one
// write to each sink, so lines of several goroutines and, in the file, of several
// processes do not mix.
type Handler struct {
	*sinks
	attrs  []slog.Attr
	groups []string
}

// sinks is what the handlers derived from one Handler share.
type sinks struct {
	Options
	lowest slog.Level

	mu     sync.Mutex // guards what follows, and the order of writes
	file   *os.File
	banner bool // the file has this process's banner
}

const banner = "-------------------PROCESS START-------------------\n"

// New makes a Handler and opens the log file. A file that cannot be opened is a
// warning on the console, in the words of pgBackRest, and the command goes on
// without it: a full or missing log directory must not stop a backup.
func New(o Options) *Handler {
	h := &Handler{sinks: &sinks{Options: o}}
	if o.File != "" && o.FileLevel < LevelOff {
		f, err := os.OpenFile(o.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err == nil {
			h.file = f
		} else {
			defer h.warn("unable to open log file '%s': %s\nNOTE: process will continue without log file.", o.File, cause(err))
		}
	}
	h.lowest = min(o.StdoutLevel, o.StderrLevel)
	if h.file != nil {
		h.lowest = min(h.lowest, o.FileLevel)
	}
	return h
}

// Close closes the log file. What is logged after it goes to the console only.
func (h *Handler) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		return nil
	}
	err := h.file.Close()
	h.file = nil
	return errs.WrapAs(errs.FileClose, err, "unable to close log file '%s'", h.File)
}

// Enabled says whether any sink wants messages of this level.
func (h *Handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.lowest }

// WithAttrs gives a Handler whose records have these attributes too.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	n.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		n.attrs = append(n.attrs, h.qualify(a))
	}
	return &n
}

// WithGroup gives a Handler that puts name and a point before later keys.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	n := *h
	n.groups = append(slices.Clone(h.groups), name)
	return &n
}

func (h *Handler) qualify(a slog.Attr) slog.Attr {
	if len(h.groups) > 0 && a.Key != keyProcess && a.Key != keyBare {
		a.Key = strings.Join(h.groups, ".") + "." + a.Key
	}
	return a
}

// Handle writes one record to each sink that wants its level.
func (h *Handler) Handle(_ context.Context, r slog.Record) error {
	l := line{level: r.Level, message: r.Message}
	for _, a := range h.attrs {
		l.add(a)
	}
	r.Attrs(func(a slog.Attr) bool {
		l.add(h.qualify(a))
		return true
	})
	if r.Level < LevelDetail {
		l.origin = origin(r.PC)
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	l.time = h.Now()
	var err error
	switch {
	case r.Level >= h.StderrLevel && h.Stderr != nil:
		err = h.write(h.Stderr, h.format(l, true, h.ExecIDOnConsole))
	case r.Level >= h.StdoutLevel && h.Stdout != nil:
		err = h.write(h.Stdout, h.format(l, false, h.ExecIDOnConsole))
	}
	if h.file != nil && r.Level >= h.FileLevel {
		if ferr := h.writeFile(h.format(l, false, true)); ferr != nil {
			err = ferr
		}
	}
	return err
}

func (h *Handler) write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

// writeFile appends a record, the first time below the banner. The file is given up
// at the first error, with a warning: the work matters more than its log.
func (h *Handler) writeFile(b []byte) error {
	if !h.banner {
		head := banner
		if info, err := h.file.Stat(); err == nil && info.Size() > 0 {
			head = "\n" + banner
		}
		b = append([]byte(head), b...)
	}
	_, err := h.file.Write(b)
	if err == nil {
		h.banner = true
		return nil
	}
	_ = h.file.Close()
	h.file = nil
	h.warn("unable to write log file '%s': %s\nNOTE: process will continue without log file.", h.File, cause(err))
	return errs.WrapAs(errs.FileWrite, err, "unable to write log file '%s'", h.File)
}

// warn writes to the console about the log itself. The lock may be held.
func (h *Handler) warn(format string, args ...any) {
	l := line{level: slog.LevelWarn, message: fmt.Sprintf(format, args...), time: h.Now()}
	switch {
	case l.level >= h.StderrLevel && h.Stderr != nil:
		_ = h.write(h.Stderr, h.format(l, true, h.ExecIDOnConsole))
	case l.level >= h.StdoutLevel && h.Stdout != nil:
		_ = h.write(h.Stdout, h.format(l, false, h.ExecIDOnConsole))
	}
}

// cause gives what the system said without the path, which the message has.
func cause(err error) error {
	if pe, ok := err.(*os.PathError); ok {
		return pe.Err
	}
	return err
}

// line is one record on its way to text.
type line struct {
	time    time.Time
	level   slog.Level
	message string
	origin  string // "package::function" of debug and trace lines
	process int
	code    errs.Code
	bare    bool
	attrs   []slog.Attr
}

func (l *line) add(a slog.Attr) {
	v := a.Value.Resolve()
	switch {
	case a.Key == keyProcess && v.Kind() == slog.KindInt64:
		l.process = int(v.Int64())
		return
	case a.Key == keyBare:
		l.bare = true
		return
	case a.Equal(slog.Attr{}):
		return
	}
	if v.Kind() == slog.KindGroup {
		for _, g := range v.Group() {
			if a.Key != "" {
				g.Key = a.Key + "." + g.Key
			}
			l.add(g)
		}
		return
	}
	if v.Kind() == slog.KindAny {
		switch x := v.Any().(type) {
		case errs.Code:
			l.code = x
		case error:
			if l.code == 0 {
				l.code = errs.CodeOf(x)
			}
		}
	}
	l.attrs = append(l.attrs, slog.Attr{Key: a.Key, Value: v})
}

// format makes the text of a record. Continuation lines are indented to the column
// of the message, so that no message can look like a record of its own.
func (h *Handler) format(l line, short, execID bool) []byte {
	b := make([]byte, 0, 160+len(l.message))
	indent := 4
	if !l.bare {
		if !short {
			if h.Timestamp {
				b = l.time.AppendFormat(b, "2006-01-02 15:04:05.000 ")
			}
			width := 2
			if h.ProcessMax > 99 {
				width = 3
			}
			b = fmt.Appendf(b, "P%0*d %6s: ", width, l.process, levelName(l.level))
		} else {
			b = fmt.Appendf(b, "%s: ", levelName(l.level))
		}
		indent = len(b)
		if l.level >= slog.LevelError {
			code := l.code
			if code == 0 {
				code = errs.Unknown
			}
			b = fmt.Appendf(b, "[%03d]: ", int(code))
		}
		if h.DryRun {
			b = append(b, "[DRY-RUN] "...)
		}
		if l.level < LevelDetail {
			deeper := 4
			if l.level < slog.LevelDebug {
				deeper = 8
			}
			b = append(b, strings.Repeat(" ", deeper)...)
			indent += deeper
			if l.origin != "" {
				b = append(append(b, l.origin...), ": "...)
			}
		}
	}

	first, rest, more := strings.Cut(strings.TrimRight(l.message, "\n"), "\n")
	b = appendClean(b, first)
	if l.level < LevelDetail {
		for _, a := range l.attrs {
			b = append(b, ' ')
			b = appendClean(b, a.Key)
			b = append(b, '=')
			b = appendValue(b, a.Value.String())
		}
	}
	if execID && h.ExecID != "" && !l.bare {
		b = append(append(b, " exec-id="...), h.ExecID...)
	}
	b = append(b, '\n')
	for more {
		first, rest, more = strings.Cut(rest, "\n")
		b = append(b, strings.Repeat(" ", indent)...)
		b = append(appendClean(b, first), '\n')
	}
	return b
}

func appendValue(b []byte, s string) []byte {
	if s == "" || strings.ContainsAny(s, " \"=\n") {
		return strconv.AppendQuote(b, s)
	}
	return appendClean(b, s)
}

// appendClean appends s with control characters and broken UTF-8 as \xNN: names in
// messages come from disks and repositories, and a terminal obeys what they hold.
func appendClean(b []byte, s string) []byte {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1, r < 0x20 && r != '\t', r >= 0x7f && r < 0xa0:
			for _, c := range []byte(s[i : i+n]) {
				b = fmt.Appendf(b, "\\x%02x", c)
			}
		default:
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return b
}

// origin names the function that logged as pgBackRest does, "module::function":
// the package path below this module, two colons, the function.
func origin(pc uintptr) string {
	if pc == 0 {
		return ""
	}
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	name := strings.TrimPrefix(frame.Function, "github.com/pgx-backup/pgx/")
	slash := strings.LastIndexByte(name, '/') + 1
	if dot := strings.IndexByte(name[slash:], '.'); dot >= 0 {
		return name[:slash+dot] + "::" + name[slash+dot+1:]
	}
	return name
}
