package ini

import (
	"bytes"
	"math"
	"strconv"

	"github.com/pgx-backup/pgx/internal/errs"
)

// maxDepth bounds how deep values may be nested. Those of format 5 nest twice.
const maxDepth = 64

// Validate checks that value is one complete value of the JSON that pgBackRest reads, with
// nothing but white space around it: integers of 64 bits, no fractions or exponents; the
// escapes \" \\ \/ \n \r \t \b \f and \u00DD with decimal digits D (its reader knows no
// others); no escapes in object keys. What is not one is a JSONFormat error.
func Validate(value []byte) error {
	end, err := skip(value, 0, 0)
	if err != nil {
		return err
	}
	if end = skipSpace(value, end); end != len(value) {
		return errs.New(errs.JSONFormat, "characters after JSON at: %s", excerpt(value[end:]))
	}
	return nil
}

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func skipSpace(b []byte, i int) int {
	for i < len(b) && space(b[i]) {
		i++
	}
	return i
}

// skip checks the value that starts at b[i] or after white space and gives where it ends.
func skip(b []byte, i, depth int) (int, error) {
	i = skipSpace(b, i)
	if i >= len(b) {
		return 0, errs.New(errs.JSONFormat, "expected data")
	}
	switch c := b[i]; {
	case c == '"':
		return skipString(b, i, true)
	case c == '-' || c >= '0' && c <= '9':
		return skipNumber(b, i)
	case c == '{' || c == '[':
		if depth >= maxDepth {
			return 0, errs.New(errs.JSONFormat, "JSON is nested more than %d deep", maxDepth)
		}
		return skipContainer(b, i, depth+1)
	}
	for _, word := range []string{"true", "false", "null"} {
		if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
			return i + len(word), nil
		}
	}
	return 0, errs.New(errs.JSONFormat, "invalid type at: %s", excerpt(b[i:]))
}

// skipString checks the string that starts at b[i] and gives where it ends.
func skipString(b []byte, i int, escapes bool) (int, error) {
	for j := i + 1; j < len(b); j++ {
		switch b[j] {
		case '"':
			return j + 1, nil
		case 0:
			return 0, errs.New(errs.JSONFormat, "expected '\"' but found null delimiter")
		case '\\':
			if !escapes {
				return 0, errs.New(errs.JSONFormat, "escape character not allowed in key at: %s", excerpt(b[j:]))
			}
			_, size := unescape(b[j:])
			if size == 0 {
				return 0, errs.New(errs.JSONFormat, "invalid escape character at: %s", excerpt(b[j:]))
			}
			j += size - 1
		}
	}
	return 0, errs.New(errs.JSONFormat, "expected '\"' but found null delimiter")
}

// unescape gives the byte that the escape at the start of b stands for and the length
// of the escape, 0 when there is no such escape.
func unescape(b []byte) (byte, int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch b[1] {
	case '"', '\\', '/':
		return b[1], 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'u':
		// \u0000 would end a string of pgBackRest before its end.
		if len(b) < 6 || b[2] != '0' || b[3] != '0' || !digit(b[4]) || !digit(b[5]) || b[4] == '0' && b[5] == '0' {
			return 0, 0
		}
		return (b[4]-'0')<<4 | (b[5] - '0'), 6
	}
	return 0, 0
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func skipNumber(b []byte, i int) (int, error) {
	j := i
	if b[j] == '-' {
		j++
	}
	for j < len(b) && digit(b[j]) {
		j++
	}
	if b[i] == '-' {
		if _, err := integer(b[i:j]); err != nil {
			return 0, err
		}
	} else if _, err := unsigned(b[i:j]); err != nil {
		return 0, err
	}
	return j, nil
}

// skipContainer checks the object or array that starts at b[i] and gives where it ends.
func skipContainer(b []byte, i, depth int) (int, error) {
	object := b[i] == '{'
	end := byte(']')
	if object {
		end = '}'
	}
	j := skipSpace(b, i+1)
	if j < len(b) && b[j] == end {
		return j + 1, nil
	}
	var err error
	for {
		if object {
			if j, err = skipKey(b, j); err != nil {
				return 0, err
			}
		}
		if j, err = skip(b, j, depth); err != nil {
			return 0, err
		}
		switch j = skipSpace(b, j); {
		case j >= len(b):
			return 0, errs.New(errs.JSONFormat, "expected data")
		case b[j] == end:
			return j + 1, nil
		case b[j] != ',':
			return 0, errs.New(errs.JSONFormat, "missing comma at: %s", excerpt(b[j:]))
		}
		j = skipSpace(b, j+1)
	}
}

// skipKey checks the object key that starts at b[i] with its colon and gives where
// they end.
func skipKey(b []byte, i int) (int, error) {
	if i >= len(b) || b[i] != '"' {
		return 0, errs.New(errs.JSONFormat, "expected key at: %s", excerpt(b[min(i, len(b)):]))
	}
	j, err := skipString(b, i, false)
	if err != nil {
		return 0, err
	}
	if j = skipSpace(b, j); j >= len(b) || b[j] != ':' {
		return 0, errs.New(errs.JSONFormat, "expected : after key at: %s", excerpt(b[min(j, len(b)):]))
	}
	return j + 1, nil
}

// excerpt is what a message shows of text that may be long.
func excerpt(b []byte) string {
	const most = 80
	if len(b) > most {
		return string(b[:most]) + "..."
	}
	return string(b)
}

func trim(raw []byte) []byte {
	for len(raw) > 0 && space(raw[0]) {
		raw = raw[1:]
	}
	for len(raw) > 0 && space(raw[len(raw)-1]) {
		raw = raw[:len(raw)-1]
	}
	return raw
}

// The functions below read a value that Validate has passed. One of another type is a
// JSONFormat error.

// IsNull says whether a value is null.
func IsNull(raw []byte) bool { return string(trim(raw)) == "null" }

// Bool reads true or false.
func Bool(raw []byte) (bool, error) {
	switch string(trim(raw)) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errs.New(errs.JSONFormat, "expected boolean at: %s", excerpt(raw))
}

// Uint64 reads a number that is not negative.
func Uint64(raw []byte) (uint64, error) { return unsigned(trim(raw)) }

// Size reads a number that is not negative and fits an int64.
func Size(raw []byte) (int64, error) {
	n, err := unsigned(trim(raw))
	if err == nil && n > math.MaxInt64 {
		err = errs.New(errs.JSONFormat, "%d is out of range for int64", n)
	}
	return int64(n), err
}

// Uint32 reads a number of 32 bits that is not negative.
func Uint32(raw []byte) (uint32, error) {
	n, err := unsigned(trim(raw))
	if err == nil && n > math.MaxUint32 {
		err = errs.New(errs.JSONFormat, "%d is out of range for uint", n)
	}
	return uint32(n), err
}

// Int64 reads a number that may be negative.
func Int64(raw []byte) (int64, error) {
	if raw = trim(raw); len(raw) > 0 && raw[0] == '-' {
		return integer(raw)
	}
	return Size(raw)
}

func unsigned(raw []byte) (uint64, error) {
	var n uint64
	for i, c := range raw {
		d := uint64(c - '0')
		if !digit(c) || i >= 63 || n > math.MaxUint64/10 || n*10 > math.MaxUint64-d {
			return 0, errs.New(errs.JSONFormat, "invalid number at: %s", excerpt(raw))
		}
		n = n*10 + d
	}
	if len(raw) == 0 {
		return 0, errs.New(errs.JSONFormat, "no digits found")
	}
	return n, nil
}

func integer(raw []byte) (int64, error) {
	n, err := unsigned(raw[1:])
	if err != nil || n > 1<<63 {
		return 0, errs.New(errs.JSONFormat, "invalid number at: %s", excerpt(raw))
	}
	return -int64(n), nil
}

// String reads a string.
func String(raw []byte) (string, error) {
	raw = trim(raw)
	if len(raw) < 2 || raw[0] != '"' {
		return "", errs.New(errs.JSONFormat, "expected string at: %s", excerpt(raw))
	}
	raw = raw[1 : len(raw)-1]
	at := bytes.IndexByte(raw, '\\')
	if at < 0 {
		return string(raw), nil
	}
	text := make([]byte, 0, len(raw))
	for ; at >= 0; at = bytes.IndexByte(raw, '\\') {
		c, size := unescape(raw[at:])
		text = append(append(text, raw[:at]...), c)
		raw = raw[at+max(size, 1):]
	}
	return string(append(text, raw...)), nil
}

// Plain gives the bytes between the quotes of a string without escapes, aliasing raw,
// and nil for anything else. It serves long lists, where String would allocate.
func Plain(raw []byte) []byte {
	if len(raw) < 2 || raw[0] != '"' || bytes.IndexByte(raw, '\\') >= 0 {
		return nil
	}
	return raw[1 : len(raw)-1]
}

// Object walks over the fields of an object that Validate has passed. The real reader
// asks for the keys it knows in ascending order and takes one out of order as missing;
// here that is an error, so that both never read a file differently.
type Object struct {
	rest  []byte
	key   []byte
	value []byte
	err   error
	begun bool
}

// NewObject begins a walk. A value that is no object is told by Err.
func NewObject(raw []byte) Object {
	raw = trim(raw)
	if len(raw) < 2 || raw[0] != '{' {
		return Object{err: errs.New(errs.JSONFormat, "expected object at: %s", excerpt(raw))}
	}
	return Object{rest: raw[1:]}
}

// Next goes to the next field and says whether there is one.
func (o *Object) Next() bool {
	if o.err != nil {
		return false
	}
	i := skipSpace(o.rest, 0)
	if i < len(o.rest) && o.rest[i] == ',' {
		i = skipSpace(o.rest, i+1)
	}
	if i >= len(o.rest) || o.rest[i] != '"' {
		return false
	}
	end := i + 1 + bytes.IndexByte(o.rest[i+1:], '"')
	key := o.rest[i+1 : end]
	if o.begun && bytes.Compare(o.key, key) >= 0 {
		o.err = errs.New(errs.JSONFormat, "key '%s' is not in ascending order after '%s'", excerpt(key), excerpt(o.key))
		return false
	}
	from := skipSpace(o.rest, skipSpace(o.rest, end+1)+1)
	to := passOver(o.rest, from)
	o.key, o.value, o.rest, o.begun = key, o.rest[from:to], o.rest[to:], true
	return true
}

// Key and Value give the field Next went to. They alias the walked value.
func (o *Object) Key() []byte { return o.key }

// Value gives the raw value of the field.
func (o *Object) Value() []byte { return o.value }

// Err says what ended the walk early.
func (o *Object) Err() error { return o.err }

// Elements calls each with every element of an array that Validate has passed.
func Elements(raw []byte, each func(element []byte) error) error {
	raw = trim(raw)
	if len(raw) < 2 || raw[0] != '[' {
		return errs.New(errs.JSONFormat, "expected array at: %s", excerpt(raw))
	}
	for i := skipSpace(raw, 1); raw[i] != ']'; {
		to := passOver(raw, i)
		if err := each(raw[i:to]); err != nil {
			return err
		}
		if i = skipSpace(raw, to); raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return nil
}

// passOver gives the end of the valid value that starts at b[i].
func passOver(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

// AppendString appends s as a JSON string: only what the format escapes is escaped.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	dst = appendEscaped(dst, s)
	return append(dst, '"')
}

func appendEscaped[T string | []byte](dst []byte, s T) []byte {
	from := 0
	for i := range len(s) {
		var c byte
		switch s[i] {
		case '"', '\\':
			c = s[i]
		case '\n':
			c = 'n'
		case '\r':
			c = 'r'
		case '\t':
			c = 't'
		case '\b':
			c = 'b'
		case '\f':
			c = 'f'
		default:
			continue
		}
		dst = append(append(dst, s[from:i]...), '\\', c)
		from = i + 1
	}
	return append(dst, s[from:]...)
}

// AppendUint appends a number.
func AppendUint(dst []byte, n uint64) []byte { return strconv.AppendUint(dst, n, 10) }

// AppendInt appends a number that may be negative.
func AppendInt(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

// maxKey is the length of the longest key pgBackRest writes.
const maxKey = 66

// validKey says whether key can be one of an object: keys know no escapes.
func validKey(key []byte) bool {
	return len(key) > 0 && len(key) <= maxKey && !bytes.ContainsAny(key, "\"\\\n\x00")
}

// Strings reads an object of strings, such as the annotations of a backup.
func Strings(raw []byte) (map[string]string, error) {
	pairs := map[string]string{}
	o := NewObject(raw)
	for o.Next() {
		if !validKey(o.Key()) {
			return nil, errs.New(errs.JSONFormat, "invalid key '%s'", excerpt(o.Key()))
		}
		value, err := String(o.Value())
		if err != nil {
			return nil, err
		}
		pairs[string(o.Key())] = value
	}
	return pairs, o.Err()
}
