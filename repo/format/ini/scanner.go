package ini

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
)

// Scanner goes through the rows of a file. It checks the format number and the checksum
// and keeps the version; these rows it does not show.
//
// The checksum is known only at the end: what was read is to be used only after Next
// has said false and Err nil.
type Scanner struct {
	rest    []byte
	src     io.Reader // of what comes after rest; nil when that is all
	buf     []byte    // that rest is in; nil if it is the caller's
	line    int
	section string
	key     []byte
	value   []byte

	version  string
	format   bool
	expected string
	found    bool

	sum checksum
	err error
}

// streamBuffer is how much a scanner of a stream has in memory, unless a line is longer.
const streamBuffer = 64 << 10

// ErrOtherFormat is in the error about a file of another repository format than ours.
var ErrOtherFormat = errors.New("another repository format")

// NewScanner begins a scan of text, which is not changed and must stay as it is until
// the end of the scan.
func NewScanner(text []byte) *Scanner {
	s := &Scanner{rest: text}
	s.sum.begin()
	return s
}

// NewStream begins a scan of what src gives. No more than a part of it is in memory at once.
func NewStream(src io.Reader) *Scanner {
	s := &Scanner{src: src, buf: make([]byte, streamBuffer)}
	s.sum.begin()
	return s
}

// Next goes to the next row and says whether there is one.
func (s *Scanner) Next() bool {
	for s.err == nil {
		line, more := s.nextLine()
		if !more {
			break
		}
		s.line++
		// pgBackRest reads lines as C strings: what follows a NUL would be there for one
		// reader and not for the other.
		if bytes.IndexByte(line, 0) >= 0 {
			s.err = errs.New(errs.Format, "null character at line %d", s.line)
			return false
		}
		switch {
		case len(line) == 0:
		case line[0] == '[' && line[len(line)-1] == ']':
			if name := line[1 : len(line)-1]; len(name) == 0 {
				s.err = errs.New(errs.Format, "invalid empty section at line %d: %s", s.line, line)
			} else if string(name) != s.section {
				s.section = string(name)
			}
		default:
			if s.split(line); s.err != nil {
				return false
			}
			if s.section != sectionBackrest || !s.own() {
				return s.err == nil
			}
		}
	}
	if s.err == nil {
		s.finish()
	}
	return false
}

// nextLine gives the next line without its end. It is valid until the next call.
func (s *Scanner) nextLine() (line []byte, more bool) {
	for searched := 0; ; {
		if end := bytes.IndexByte(s.rest[searched:], '\n'); end >= 0 {
			line, s.rest = s.rest[:searched+end], s.rest[searched+end+1:]
			return line, true
		}
		if s.src == nil {
			line, s.rest = s.rest, nil
			return line, len(line) > 0 && s.err == nil
		}
		searched = len(s.rest)
		s.fill()
	}
}

// fill reads on behind rest.
func (s *Scanner) fill() {
	buf := s.buf
	if len(s.rest) > len(buf)/2 {
		buf = make([]byte, 2*len(buf))
	}
	n := copy(buf, s.rest)
	read, err := io.ReadFull(s.src, buf[n:])
	if err != nil {
		s.src = nil
		if err != io.EOF && err != io.ErrUnexpectedEOF {
			s.err = err
		}
	}
	s.buf, s.rest = buf, buf[:n+read]
}

// split takes a line apart into key and value and adds it to the checksum.
func (s *Scanner) split(line []byte) {
	if s.section == "" {
		s.err = errs.New(errs.Format, "key/value found outside of section at line %d: %s", s.line, excerpt(line))
		return
	}
	at, err := splitAt(line)
	switch {
	case at < 0:
		s.err = errs.New(errs.Format, "missing '=' in key/value at line %d: %s", s.line, excerpt(line))
		return
	case err != nil:
		s.err = errs.New(errs.Format, "invalid JSON value at line %d '%s': %s", s.line, excerpt(line), err.Error())
		return
	case at == 0:
		s.err = errs.New(errs.Format, "key is zero-length at line %d: %s", s.line, excerpt(line))
		return
	}
	s.key, s.value = line[:at], line[at+1:]
	if s.section != sectionBackrest || string(s.key) != keyChecksum {
		s.sum.row(s.section, s.key, s.value)
	}
}

// splitAt gives the position of the "=" that ends the key: the first behind which the
// rest is a valid value. Without a "=" it is -1, and without a value behind one there
// is the error of the last.
func splitAt(line []byte) (int, error) {
	at, err := -1, error(nil)
	for {
		next := bytes.IndexByte(line[at+1:], '=')
		if next < 0 {
			return at, err
		}
		at += 1 + next
		if err = Validate(line[at+1:]); err == nil {
			return at, nil
		}
	}
}

// own reads a row of the first or last section and says whether it was one of ours.
func (s *Scanner) own() bool {
	switch string(s.key) {
	case keyFormat:
		n, err := Uint64(s.value)
		if err == nil && n != format.Format {
			err = &errs.Error{
				Code: errs.Format, Message: fmt.Sprintf("expected format %d but found %d", format.Format, n), Err: ErrOtherFormat,
			}
		}
		s.format, s.err = true, err
	case keyVersion:
		s.version, s.err = String(s.value)
	case keyChecksum:
		s.expected, s.err = String(s.value)
		s.found = true
	default:
		return false
	}
	return true
}

// finish compares the checksum.
func (s *Scanner) finish() {
	actual := s.sum.end()
	switch {
	case !s.found:
		s.err = errs.New(errs.Checksum, "invalid checksum, actual '%s' but no checksum found", actual)
	case s.expected != actual:
		s.err = errs.New(errs.Checksum, "invalid checksum, actual '%s' but expected '%s'", actual, s.expected)
	case !s.format:
		s.err = errs.New(errs.Format, "expected format %d but found none", format.Format)
	}
}

// Section gives the section of the row.
func (s *Scanner) Section() string { return s.section }

// Key gives the key of the row. It is valid until the next call of Next.
func (s *Scanner) Key() []byte { return s.key }

// Value gives the raw value of the row, which Validate has passed. It is valid until the next
// call of Next.
func (s *Scanner) Value() []byte { return s.value }

// Version gives the program that wrote the file, from backrest-version.
func (s *Scanner) Version() string { return s.version }

// Err says what ended the scan early: a Format error for text that is not of this
// dialect or format, a Checksum error for a sum that is missing or another, and what the
// stream gave.
func (s *Scanner) Err() error { return s.err }

// Wrong gives err with the section and key of the row the scanner is at, for what a
// parser finds wrong in a value.
func (s *Scanner) Wrong(err error) error {
	return errs.Wrap(err, "section '%s', key '%s'", s.section, excerpt(s.key))
}

// checksum computes the sum of a file from its rows.
type checksum struct {
	hash    hash.Hash
	buffer  []byte
	section string
}

// sumBuffer is how much is collected before it is hashed.
const sumBuffer = 64 << 10

func (c *checksum) begin() {
	c.hash = sha1.New()
	c.buffer = append(make([]byte, 0, sumBuffer+4096), '{')
}

func (c *checksum) row(section string, key, value []byte) {
	b := c.buffer
	if section == c.section {
		b = append(b, ',')
	} else {
		if c.section != "" {
			b = append(b, "},"...)
		}
		b = append(append(append(b, '"'), section...), `":{`...)
		c.section = section
	}
	b = append(b, '"')
	b = appendEscaped(b, key)
	b = append(append(b, `":`...), value...)
	if len(b) >= sumBuffer {
		c.hash.Write(b)
		b = b[:0]
	}
	c.buffer = b
}

func (c *checksum) end() string {
	c.hash.Write(append(c.buffer, "}}"...))
	return hex.EncodeToString(c.hash.Sum(nil))
}
