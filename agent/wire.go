package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/pgx-backup/pgx/internal/errs"
)

// maxLine bounds a value in a stream of JSON values: names and links have at most a few
// thousand bytes.
const maxLine = 256 << 10

// A list is a stream of JSON values, each on a line of its own.
type list struct {
	enc *json.Encoder
}

func newList(w io.Writer) list {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return list{enc}
}

func (l list) add(v any) error { return l.enc.Encode(v) }

// readValue reads the next value of a list into v. At the end of the list it is io.EOF.
// What no end of ours has sent is a Protocol error, and a line that does not end takes no memory.
func readValue(in *bufio.Reader, v any) error {
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return errs.New(errs.Protocol, "a value of a list has more than %d bytes", in.Size())
	}
	if err == io.EOF && len(line) > 0 {
		return errs.New(errs.Protocol, "the last value of a list is cut")
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		return errs.New(errs.Protocol, "a value of a list cannot be read: %w", err)
	}
	return nil
}

// values gives the values of a list. After an error nothing follows.
func values[T any](r io.Reader) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		in := bufio.NewReaderSize(r, maxLine)
		for {
			var v T
			err := readValue(in, &v)
			if err == io.EOF || !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// pack prepares names for JSON, which has only Unicode: file names may be any bytes. When one
// of them is not UTF-8, all of them become strings of which each character stands
// for one byte, and it gives true.
func pack(names ...*string) (asBytes bool) {
	for _, n := range names {
		asBytes = asBytes || !utf8.ValidString(*n)
	}
	if !asBytes {
		return false
	}
	for _, n := range names {
		var b strings.Builder
		for i := range len(*n) {
			b.WriteRune(rune((*n)[i]))
		}
		*n = b.String()
	}
	return true
}

// unpack is the reverse of pack.
func unpack(asBytes bool, names ...*string) error {
	if !asBytes {
		return nil
	}
	for _, n := range names {
		b := make([]byte, 0, len(*n))
		for _, r := range *n {
			if r > 0xff {
				return errs.New(errs.Protocol, "name '%s' is marked as bytes and has the character U+%04X", *n, r)
			}
			b = append(b, byte(r))
		}
		*n = string(b)
	}
	return nil
}

// checkText refuses what PostgreSQL would cut, or write as more than one line.
func checkText(what, s string, limit int) error {
	switch {
	case len(s) > limit:
		return errs.New(errs.ParamInvalid, "%s has %d bytes, more than %d", what, len(s), limit)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errs.New(errs.ParamInvalid, "%s has characters that cannot be printed", what)
	}
	return nil
}
