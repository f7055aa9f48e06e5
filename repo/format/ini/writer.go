package ini

import (
	"bytes"
	"io"
	"maps"
	"slices"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
)

// Writer writes a file. Rows are to come in ascending order of their sections; it
// begins with the first section and ends, in Close, with the checksum. What was Kept of
// an older state is put in where it belongs.
//
// An error stays until Close gives it, and nothing is written after it.
type Writer struct {
	w       io.Writer
	out     []byte
	section string
	sum     checksum
	rows    []row // kept and not yet written
	kept    *Kept
	object  []byte
	err     error
}

// NewWriter begins a file that says it was written by the program version.
func NewWriter(w io.Writer, version string, kept *Kept) *Writer {
	z := &Writer{w: w, out: make([]byte, 0, sumBuffer+4096), rows: kept.inOrder(), kept: kept}
	z.sum.begin()
	z.Uint(sectionBackrest, keyFormat, format.Format)
	z.String(sectionBackrest, keyVersion, version)
	return z
}

// Row writes a raw value, which must be valid.
func (z *Writer) Row(section, key string, value []byte) {
	for len(z.rows) > 0 && compareRows(z.rows[0].section, z.rows[0].key, section, key) < 0 {
		z.row(z.rows[0].section, z.rows[0].key, z.rows[0].value)
		z.rows = z.rows[1:]
	}
	z.row(section, key, value)
}

func (z *Writer) row(section, key string, value []byte) {
	if z.err != nil {
		return
	}
	if section != z.section {
		if z.section != "" {
			z.out = append(z.out, '\n')
		}
		z.out = append(append(append(z.out, '['), section...), "]\n"...)
		z.section = section
	}
	from := len(z.out)
	z.out = append(append(append(z.out, key...), '='), value...)
	line := z.out[from:]
	if !readable(line, len(key)) {
		z.err = errs.New(errs.Format, "'%s' cannot be a key of section '%s'", excerpt([]byte(key)), section)
		return
	}
	z.sum.row(section, line[:len(key)], value)
	z.out = append(z.out, '\n')
	z.flush(sumBuffer)
}

// readable says whether a reader takes line apart behind the key of that length.
func readable(line []byte, key int) bool {
	if key == 0 || line[0] == '[' && line[len(line)-1] == ']' {
		return false
	}
	if bytes.IndexByte(line, '\n') >= 0 || bytes.IndexByte(line, 0) >= 0 {
		return false
	}
	if bytes.IndexByte(line[:key], '=') < 0 {
		return true
	}
	at, err := splitAt(line)
	return err == nil && at == key
}

func (z *Writer) flush(least int) {
	if z.err == nil && len(z.out) >= least {
		_, z.err = z.w.Write(z.out)
		z.out = z.out[:0]
	}
}

// String writes a string.
func (z *Writer) String(section, key, value string) {
	z.object = AppendString(z.object[:0], value)
	z.Row(section, key, z.object)
}

// Bool writes true or false.
func (z *Writer) Bool(section, key string, value bool) {
	z.Row(section, key, boolText(value))
}

// Uint writes a number.
func (z *Writer) Uint(section, key string, value uint64) {
	z.object = AppendUint(z.object[:0], value)
	z.Row(section, key, z.object)
}

// Int writes a number that may be negative.
func (z *Writer) Int(section, key string, value int64) {
	z.object = AppendInt(z.object[:0], value)
	z.Row(section, key, z.object)
}

// Strings writes an object of strings. A key that no reader would take back, or that
// pgBackRest could not write, is a Format error.
func (z *Writer) Strings(section, key string, pairs map[string]string) {
	z.object = z.appendStrings(z.object[:0], pairs)
	z.Row(section, key, z.object)
}

func (z *Writer) appendStrings(dst []byte, pairs map[string]string) []byte {
	dst = append(dst, '{')
	for i, key := range slices.Sorted(maps.Keys(pairs)) {
		if !validKey([]byte(key)) && z.err == nil {
			z.err = errs.New(errs.Format, "'%s' cannot be a key: it is empty, longer than %d bytes, or has a quote, "+
				"backslash or line feed", excerpt([]byte(key)), maxKey)
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), key...), `":`...)
		dst = AppendString(dst, pairs[key])
	}
	return append(dst, '}')
}

func boolText(value bool) []byte {
	if value {
		return []byte("true")
	}
	return []byte("false")
}

// Close writes what was kept for after the last row, the checksum and the rest of the
// text, and gives the first error of all. It does not close the writer below.
func (z *Writer) Close() error {
	for _, r := range z.rows {
		z.row(r.section, r.key, r.value)
	}
	z.out = append(z.out, "\n["+sectionBackrest+"]\n"+keyChecksum+"="...)
	z.out = AppendString(z.out, z.sum.end())
	z.out = append(z.out, '\n')
	z.flush(0)
	return z.err
}

// Fields makes the value of a row that is an object. Its fields are to come in ascending
// order of their keys; End writes the row.
type Fields struct {
	z            *Writer
	section, key string
	text         []byte
	kept         []field
}

// Object begins a row that is an object. One can be open at a time.
func (z *Writer) Object(section, key string) Fields {
	f := Fields{z: z, section: section, key: key, text: append(z.object[:0], '{')}
	if len(z.kept.fields) > 0 {
		f.kept = z.kept.fields[rowName{section, key}]
	}
	return f
}

// name begins a field, behind those kept that come before it.
func (f *Fields) name(key string) {
	for len(f.kept) > 0 && f.kept[0].key < key {
		f.put(f.kept[0])
	}
	f.comma()
	f.text = append(append(append(f.text, '"'), key...), `":`...)
}

func (f *Fields) comma() {
	if len(f.text) > 1 {
		f.text = append(f.text, ',')
	}
}

// put writes a kept field.
func (f *Fields) put(kept field) {
	f.comma()
	f.text = append(append(append(f.text, '"'), kept.key...), `":`...)
	f.text = append(f.text, kept.value...)
	f.kept = f.kept[1:]
}

// String writes a string.
func (f *Fields) String(key, value string) {
	f.name(key)
	f.text = AppendString(f.text, value)
}

// Plain writes a string that needs no escapes, such as hexadecimal digits.
func (f *Fields) Plain(key string, value []byte) {
	f.name(key)
	f.text = append(append(append(f.text, '"'), value...), '"')
}

// Bool writes true or false.
func (f *Fields) Bool(key string, value bool) {
	f.name(key)
	f.text = append(f.text, boolText(value)...)
}

// Uint writes a number.
func (f *Fields) Uint(key string, value uint64) {
	f.name(key)
	f.text = AppendUint(f.text, value)
}

// Int writes a number that may be negative.
func (f *Fields) Int(key string, value int64) {
	f.name(key)
	f.text = AppendInt(f.text, value)
}

// Strings writes an object of strings, as Writer.Strings does.
func (f *Fields) Strings(key string, pairs map[string]string) {
	f.name(key)
	f.text = f.z.appendStrings(f.text, pairs)
}

// Raw writes a value that is JSON already.
func (f *Fields) Raw(key string, value []byte) {
	f.name(key)
	f.text = append(f.text, value...)
}

// End writes the row.
func (f *Fields) End() {
	for len(f.kept) > 0 {
		f.put(f.kept[0])
	}
	f.z.object = append(f.text, '}')
	f.z.Row(f.section, f.key, f.z.object)
}
