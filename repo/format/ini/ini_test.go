package ini_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format/ini"
	"github.com/pgx-backup/pgx/repo/format/internal/golden"
)

func TestValidate(t *testing.T) {
	for _, s := range []string{
		`0`, `5`, `-5`, `18446744073709551615`, `-9223372036854775808`, `007`, `true`, `false`, `null`, `""`, `"a"`, ` 1 `,
		`"\"\\\/\n\r\t\b\f"`, `"\u0041"`, `"é / "`, "\"\x01\xff\"", `{}`, `[]`, `[1,[2,3]]`, `{"a":1,"b":{"c":[true,null]}}`,
		` { "a" : 1 , "b" : [ 1 , 2 ] } `, `{"b":1,"a":2}`,
	} {
		if err := ini.Validate([]byte(s)); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{
		``, ` `, `-`, `+1`, `1.5`, `1e3`, `18446744073709551616`, `-9223372036854775809`, `truex`, `tru`, `nul`, `"`, `"a`, `"\`, `"\q"`,
		`"\u00e9"`, `"\u001f"`, `"\u1234"`, `"\u0000"`, `"\u00"`, "\"\x00\"", `{`, `[`, `}`, `]`, `[1`, `[1,]`, `[,1]`, `[1 2]`, `{"a"}`, `{"a":}`,
		`{"a":1,}`, `{"a":1 "b":2}`, `{a:1}`, `{"a\"b":1}`, `{1:2}`, `1 2`, `{}}`, strings.Repeat("[", 100) + strings.Repeat("]", 100),
	} {
		if err := ini.Validate([]byte(s)); errs.CodeOf(err) != errs.JSONFormat {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestString(t *testing.T) {
	for in, want := range map[string]string{
		`""`: "", `"plain"`: "plain", ` "a" `: "a", `"\"\\\/\n\r\t\b\f"`: "\"\\/\n\r\t\b\f", `"\u0041x"`: "Ax", `"é\\é"`: `é\é`,
	} {
		got, err := ini.String([]byte(in))
		if err != nil || got != want {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
	for _, s := range []string{"", "a/b", "é\x01\x7f", "\"\\\n\r\t\b\f", "x\\", "\\x"} {
		raw := ini.AppendString(nil, s)
		if got, err := ini.String(raw); err != nil || got != s || ini.Validate(raw) != nil {
			t.Errorf("%q became %s and then %q, %v", s, raw, got, err)
		}
	}
	if got := string(ini.AppendString(nil, "a/é\x01\"")); got != "\"a/é\x01\\\"\"" {
		t.Errorf("escaped too much: %s", got)
	}
}

// rows gives what a scan shows.
func rows(text string) (list []string, err error) {
	s := ini.NewScanner([]byte(text))
	for s.Next() {
		list = append(list, fmt.Sprintf("%s|%s|%s", s.Section(), s.Key(), s.Value()))
	}
	return list, s.Err()
}

// file gives rows the first and the last section. The checksum is the one the scanner
// asks for.
func file(t testing.TB, body string) string {
	t.Helper()
	text := "[backrest]\nbackrest-format=5\nbackrest-version=\"2.60\"\n\n" + body + "\n\n[backrest]\nbackrest-checksum=\"%s\"\n"
	_, err := rows(fmt.Sprintf(text, "x"))
	_, sum, found := strings.Cut(fmt.Sprint(err), "actual '")
	if !found {
		t.Fatalf("no checksum: %v", err)
	}
	return fmt.Sprintf(text, sum[:40])
}

func TestScan(t *testing.T) {
	for line, want := range map[string]string{
		`k=1`:                                  `s|k|1`,
		`k={"a":"b=c"}`:                        `s|k|{"a":"b=c"}`,
		`a=b=1`:                                `s|a=b|1`,
		`a=1=2`:                                `s|a=1|2`,
		`a b # =c="x"`:                         `s|a b # =c|"x"`,
		` k =1`:                                `s| k |1`,
		`[k=1`:                                 `s|[k|1`,
		`#k=1`:                                 `s|#k|1`,
		`k=[1,2]`:                              `s|k|[1,2]`,
		`pg_data/file with = equals.txt={}`:    `s|pg_data/file with = equals.txt|{}`,
		"pg_data/\"\\\t=" + `{"size": 0}`:      "s|pg_data/\"\\\t|" + `{"size": 0}`,
		`x={"a":"={"b":1}`:                     `s|x={"a":"|{"b":1}`,
		"k=1\n\n\nl=2":                         "s|k|1\ns|l|2",
		"k=1\n[s]\nl=2":                        "s|k|1\ns|l|2",
		"[empty]\n[u]\nk=1":                    "u|k|1",
		"k=1\n[backrest]\nbackrest-other=\"\"": "s|k|1\nbackrest|backrest-other|\"\"",
	} {
		got, err := rows(file(t, "[s]\n"+line))
		if err != nil || strings.Join(got, "\n") != want {
			t.Errorf("%s: %q, %v", line, got, err)
		}
	}
	// The last line feed may be missing.
	if _, err := rows(strings.TrimSuffix(file(t, "[s]\nk=1"), "\n")); err != nil {
		t.Error(err)
	}
}

func TestScanRefuses(t *testing.T) {
	good := file(t, "[s]\nk=1")
	for name, test := range map[string]struct {
		text, message string
		code          errs.Code
	}{
		"changed value":    {strings.Replace(good, "k=1", "k=2", 1), "invalid checksum, actual '", errs.Checksum},
		"changed checksum": {strings.Replace(good, `checksum="`, `checksum="0`, 1), "invalid checksum, actual '", errs.Checksum},
		"no checksum":      {good[:strings.LastIndex(good, "[backrest]")], "but no checksum found", errs.Checksum},
		"empty":            {"", "but no checksum found", errs.Checksum},
		"other format":     {strings.Replace(good, "format=5", "format=6", 1), "expected format 5 but found 6", errs.Format},
		"no format":        {strings.Replace(good, "backrest-format=5\n", "", 1), "", errs.Checksum},
		"outside section":  {"k=1\n", "key/value found outside of section at line 1: k=1", errs.Format},
		"no equals":        {"[s]\nk\n", "missing '=' in key/value at line 2: k", errs.Format},
		"empty key":        {"[s]\n=1\n", "key is zero-length at line 2: =1", errs.Format},
		"empty section":    {"[]\n", "invalid empty section at line 1: []", errs.Format},
		"no JSON":          {"[s]\nk=a\n", "invalid JSON value at line 2 'k=a': invalid type at: a", errs.Format},
		"unclosed header":  {"[s]\n[t\n", "missing '=' in key/value at line 2: [t", errs.Format},
		"null character":   {"[s]\nk=\"a\x00b\"\n", "null character at line 2", errs.Format},
		"carriage return":  {"[s]\r\nk=1\r\n", "", errs.Format},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rows(test.text)
			if errs.CodeOf(err) != test.code || !strings.Contains(fmt.Sprint(err), test.message) {
				t.Errorf("error is %v (%v)", err, errs.CodeOf(err))
			}
		})
	}
}

// TestChecksum is the example of the format: written and read with a genuine checksum.
func TestChecksum(t *testing.T) {
	const want = `[backrest]
backrest-format=5
backrest-version="2.60.0dev"

[db]
db-id=1
db-system-id=7710435159552024453
db-version="15"

[db:history]
1={"db-id":7710435159552024453,"db-version":"15"}

[backrest]
backrest-checksum="64ffa8d5b3606548183a23c93bf58bfd3f19b5eb"
`
	var b bytes.Buffer
	z := ini.NewWriter(&b, "2.60.0dev", &ini.Kept{})
	z.Uint("db", "db-id", 1)
	z.Uint("db", "db-system-id", 7710435159552024453)
	z.String("db", "db-version", "15")
	o := z.Object("db:history", "1")
	o.Uint("db-id", 7710435159552024453)
	o.String("db-version", "15")
	o.End()
	if err := z.Close(); err != nil || b.String() != want {
		t.Errorf("error %v, wrote\n%s", err, b.String())
	}
	if _, err := rows(want); err != nil {
		t.Error(err)
	}
}

// keepAll gives a text as a writer puts it back that knows nothing of it.
func keepAll(text []byte) ([]byte, error) {
	var kept ini.Kept
	s := ini.NewScanner(text)
	for s.Next() {
		kept.Row(s)
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err := ini.NewWriter(&b, s.Version(), &kept).Close()
	return b.Bytes(), err
}

// A stream shows the rows that the text in memory has, wherever its parts begin, and says what
// became of it.
func TestStream(t *testing.T) {
	var body strings.Builder
	body.WriteString("[s]\n")
	for i := range 20_000 {
		fmt.Fprintf(&body, "key-%d=\"%s\"\n", i, strings.Repeat("v", i*i%311))
	}
	fmt.Fprintf(&body, "long=\"%s\"\nlast=1", strings.Repeat("x", 300_000))
	text := file(t, body.String())
	want, err := rows(text)
	if err != nil {
		t.Fatal(err)
	}
	stream := func(src io.Reader) (list []string, err error) {
		s := ini.NewStream(src)
		for s.Next() {
			list = append(list, fmt.Sprintf("%s|%s|%s", s.Section(), s.Key(), s.Value()))
		}
		return list, s.Err()
	}
	for name, src := range map[string]io.Reader{
		"whole": strings.NewReader(text), "halves": iotest.HalfReader(strings.NewReader(text)),
		"end with data": iotest.DataErrReader(strings.NewReader(text)),
	} {
		if got, err := stream(src); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d rows of %d, %v", name, len(got), len(want), err)
		}
	}
	if got, err := stream(strings.NewReader(text[:len(text)-1])); err != nil || len(got) != len(want) {
		t.Errorf("without a last line feed: %d rows, %v", len(got), err)
	}
	if _, err := stream(strings.NewReader(text[:len(text)/2])); errs.CodeOf(err) != errs.Format {
		t.Errorf("half a text: %v", err)
	}
	broken := errors.New("broken")
	for _, after := range []int{0, 10, 64 << 10, len(text) - 1, len(text)} {
		if _, err := stream(io.MultiReader(strings.NewReader(text[:after]), iotest.ErrReader(broken))); err != broken {
			t.Errorf("broken after %d bytes: %v", after, err)
		}
	}
}

func TestGoldenFilesAreKept(t *testing.T) {
	for _, base := range []string{"archive.info", "backup.info", "backup.manifest"} {
		for name, text := range golden.Files(t, base) {
			if got, err := keepAll(text); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s comes out changed, error %v", name, err)
			}
		}
	}
}

func TestWriterPutsBackInOrder(t *testing.T) {
	var kept ini.Kept
	s := ini.NewScanner([]byte(file(t, "[zzz]\nk=1\n\n[db]\nx=1\na={\"1\": 2}\n\n[aaa]\nk=[]\n\n[backrest]\nbackrest-more=true\n"+
		"\n[obj]\nk={\"a\":1,\"c\":\"3\",\"e\": {}}")))
	for s.Next() {
		if s.Section() != "obj" {
			kept.Row(s)
			continue
		}
		for o := ini.NewObject(s.Value()); o.Next(); {
			kept.Field(s, &o)
		}
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	var b bytes.Buffer
	z := ini.NewWriter(&b, "v", &kept)
	z.Bool("db", "m", true)
	o := z.Object("obj", "k")
	o.Bool("b", false)
	o.Int("d", -1)
	o.End()
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	const want = "[backrest]\nbackrest-format=5\nbackrest-more=true\nbackrest-version=\"v\"\n\n[aaa]\nk=[]\n\n[db]\na={\"1\": 2}\nm=true\nx=1\n\n" +
		"[obj]\nk={\"a\":1,\"b\":false,\"c\":\"3\",\"d\":-1,\"e\":{}}\n\n[zzz]\nk=1\n\n[backrest]\n"
	if got, _, _ := strings.Cut(b.String(), "backrest-checksum"); got != want {
		t.Errorf("wrote\n%s\nwant\n%s", got, want)
	}
	if _, err := rows(b.String()); err != nil {
		t.Error(err)
	}
}

func TestWriterRefuses(t *testing.T) {
	for name, write := range map[string]func(*ini.Writer){
		"line feed in a key":       func(z *ini.Writer) { z.Uint("s", "a\nb", 1) },
		"NUL in a key":             func(z *ini.Writer) { z.Uint("s", "a\x00b", 1) },
		"NUL in a value":           func(z *ini.Writer) { z.String("s", "k", "a\x00b") },
		"empty key":                func(z *ini.Writer) { z.Uint("s", "", 1) },
		"line like a section":      func(z *ini.Writer) { z.Row("s", "[k", []byte("[1]")) },
		"quote in a key of object": func(z *ini.Writer) { z.Strings("s", "k", map[string]string{`a"b`: ""}) },
		"key of object too long":   func(z *ini.Writer) { z.Strings("s", "k", map[string]string{strings.Repeat("k", 67): ""}) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			z := ini.NewWriter(&b, "v", &ini.Kept{})
			write(z)
			if err := z.Close(); errs.CodeOf(err) != errs.Format || b.Len() > 0 {
				t.Errorf("error %v, wrote %q", err, b.String())
			}
		})
	}
}

func TestObjectRefusesOrder(t *testing.T) {
	for _, raw := range []string{`{"b":1,"a":2}`, `{"a":1,"a":2}`, `1`, `[]`, `""`} {
		o := ini.NewObject([]byte(raw))
		for o.Next() {
		}
		if errs.CodeOf(o.Err()) != errs.JSONFormat {
			t.Errorf("%s: %v", raw, o.Err())
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte(file(f, "[s]\nk={\"a\":[1,[2,3]],\"b\":\"\\\"\"}\na=b=\"c\"")))
	f.Add([]byte("[s]\n[t\nk=[[[\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		// Whatever the checksum says, rows must be rows.
		s := ini.NewScanner(text)
		for s.Next() {
			if len(s.Key()) == 0 || ini.Validate(s.Value()) != nil {
				t.Fatalf("row %q=%q", s.Key(), s.Value())
			}
			walk(t, s.Value())
		}
		once, err := keepAll(text)
		if err != nil {
			return
		}
		if twice, err := keepAll(once); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("error %v, from\n%q\nto\n%q", err, once, twice)
		}
	})
}

// walk reads a value by every means there is.
func walk(t *testing.T, raw []byte) {
	if s, err := ini.String(raw); err == nil {
		if again, err := ini.String(ini.AppendString(nil, s)); err != nil || again != s {
			t.Fatalf("%s became %q, %v", raw, again, err)
		}
	}
	_, _ = ini.Strings(raw)
	_, _ = ini.Int64(raw)
	_, _ = ini.Uint32(raw)
	_ = ini.Elements(raw, func(e []byte) error {
		if err := ini.Validate(e); err != nil {
			t.Fatalf("%s has the element %q: %v", raw, e, err)
		}
		walk(t, e)
		return nil
	})
	for o := ini.NewObject(raw); o.Next(); {
		if err := ini.Validate(o.Value()); err != nil {
			t.Fatalf("%s has the field %q: %v", raw, o.Value(), err)
		}
		walk(t, o.Value())
	}
}
