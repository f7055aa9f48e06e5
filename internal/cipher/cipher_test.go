package cipher_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const text = "zWa/6Xtp-IVZC5444yXB+cgFDFl7MxGlgkZSaoPvTGirhPygu4jOKOXf9LO4vjfO"

var pass = cipher.NewPass(text)

// content gives size bytes that are always the same.
func content(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = r.Read(b)
	return b
}

// sizes are those around what blocks, chunks and parts of chunks have.
var sizes = []int{0, 1, 15, 16, 17, 31, 32, 33, 4095, 4096, 8192, 64<<10 - 1, 64 << 10, 128 << 10, 128<<10 + 16, 256<<10 - 17,
	256<<10 - 16, 256<<10 - 1, 256 << 10, 256<<10 + 1, 512<<10 - 16, 5<<20 + 3}

// forms are the normal and the raw one.
var forms = []struct {
	name      string
	encrypter func(cipher.Pass) *cipher.Encrypter
	reader    func(io.Reader, cipher.Pass) *cipher.Reader
	header    int
}{
	{"normal", cipher.NewEncrypter, cipher.NewReader, 16},
	{"raw", cipher.NewRawEncrypter, cipher.NewRawReader, 8},
}

func TestRoundTrip(t *testing.T) {
	for _, f := range forms {
		for _, size := range sizes {
			want := content(size)
			for _, piece := range []int{1, 15, 16, 17, 1000, 1 << 20, 16 << 20} {
				if piece < 100 && size > 10000 {
					continue
				}
				e := f.encrypter(pass)
				unit := []byte("before")
				for rest := want; len(rest) > 0; {
					n := min(piece, len(rest))
					unit, rest = e.Append(unit, rest[:n]), rest[n:]
				}
				unit, found := bytes.CutPrefix(e.End(unit), []byte("before"))
				if !found || len(unit) != f.header+size+16-size%16 || len(unit)-size > cipher.Overhead {
					t.Fatalf("%s, %d bytes in pieces of %d: the unit has %d", f.name, size, piece, len(unit))
				}
				if got, err := io.ReadAll(f.reader(bytes.NewReader(unit), pass)); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%s, %d bytes in pieces of %d: read %d, %v", f.name, size, piece, len(got), err)
				}
			}
		}
	}
}

// TestReadInPieces: whatever the sizes of reads on both sides, the content is the same, on one
// processor and on several.
func TestReadInPieces(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	want := content(1<<20 + 77)
	unit := cipher.Seal(pass, want)
	for _, processors := range []int{1, 2, 3, 7} {
		runtime.GOMAXPROCS(processors)
		for name, src := range map[string]io.Reader{
			"whole": bytes.NewReader(unit), "half": iotest.HalfReader(bytes.NewReader(unit)), "with the end": iotest.DataErrReader(bytes.NewReader(unit)),
		} {
			r := cipher.NewReader(src, pass)
			got, err := io.ReadAll(iotest.HalfReader(r))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s on %d: read %d bytes, %v", name, processors, len(got), err)
			}
			_ = r.Close()
		}
		r := cipher.NewReader(iotest.OneByteReader(bytes.NewReader(unit)), pass)
		var got bytes.Buffer
		if n, err := r.WriteTo(&got); err != nil || n != int64(len(want)) || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("written %d bytes, %v", n, err)
		}
		_ = r.Close()
	}
	if err := iotest.TestReader(cipher.NewReader(bytes.NewReader(unit), pass), want); err != nil {
		t.Error(err)
	}
}

// TestOpenSSL: the program that the format means reads what is written here, and the reverse.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	file := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	openssl := func(in []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.Command("openssl", append([]string{"enc", "-aes-256-cbc", "-md", "sha1", "-pass", "file:" + file}, args...)...)
		cmd.Stdin = bytes.NewReader(in)
		var out, complaints bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaints
		if err := cmd.Run(); err != nil {
			t.Fatalf("openssl: %v\n%s", err, complaints.Bytes())
		}
		return out.Bytes()
	}
	for _, size := range sizes {
		want := content(size)
		if got := openssl(cipher.Seal(pass, want), "-d"); !bytes.Equal(got, want) {
			t.Errorf("openssl reads %d bytes, not the %d written", len(got), size)
		}
		if got, err := cipher.Open(pass, openssl(want)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("of the %d bytes of openssl %d are read, %v", size, len(got), err)
		}
		if got, err := io.ReadAll(cipher.NewRawReader(bytes.NewReader(openssl(want)[8:]), pass)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("raw, of the %d bytes of openssl %d are read, %v", size, len(got), err)
		}
	}
}

// TestKnown reads a unit that openssl has made.
func TestKnown(t *testing.T) {
	unit, err := base64.StdEncoding.DecodeString("U2FsdGVkX18BAgMEBQYHCDdbMUmn9bH38a9CyHsEPmA=")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := cipher.Open(cipher.NewPass("passphrase"), unit); err != nil || string(got) != "content" {
		t.Errorf("read %q, %v", got, err)
	}
}

// TestCut: a unit that ends early at whatever byte is an error, and never shorter content.
func TestCut(t *testing.T) {
	for _, f := range forms {
		want := content(100)
		e := f.encrypter(pass)
		unit := e.End(e.Append(nil, want))
		for n := range unit {
			got, err := io.ReadAll(f.reader(bytes.NewReader(unit[:n]), pass))
			message := "encrypted content is cut off"
			switch {
			case n == 0:
				message = "cipher header missing"
			case n > f.header && n%16 == f.header%16:
				// It ends with what happens to be in the content.
				message = "unable to decrypt: the content is damaged or cut off, or the passphrase is wrong"
			}
			if errs.CodeOf(err) != errs.Crypto || errs.Message(err) != message || len(got) > 0 {
				t.Errorf("%s, cut to %d of %d bytes: %d bytes and [%d] %v", f.name, n, len(unit), len(got), errs.CodeOf(err), err)
			}
		}
	}
	large := cipher.Seal(pass, content(1<<20))
	for _, n := range []int{len(large) - 1, len(large) - 16, 256<<10 + 16, 256<<10 + 15, 512<<10 + 16} {
		if _, err := cipher.Open(pass, large[:n]); errs.CodeOf(err) != errs.Crypto {
			t.Errorf("cut to %d of %d bytes: %v", n, len(large), err)
		}
	}
}

// TestFlipped: a bit that changes is never overlooked where the format can tell: the header and
// the padding. Elsewhere the content differs, for its checksum to find out.
func TestFlipped(t *testing.T) {
	want := content(40)
	unit := cipher.Seal(pass, want)
	for i := range unit {
		for bit := range 8 {
			bad := bytes.Clone(unit)
			bad[i] ^= 1 << bit
			got, err := cipher.Open(pass, bad)
			switch {
			case i < 8 && (errs.CodeOf(err) != errs.Crypto || errs.Message(err) != "cipher header invalid"):
				t.Errorf("byte %d, bit %d: %v", i, bit, err)
			case err == nil && bytes.Equal(got, want):
				t.Errorf("byte %d, bit %d: nobody has seen it", i, bit)
			case err != nil && errs.CodeOf(err) != errs.Crypto:
				t.Errorf("byte %d, bit %d: [%d] %v", i, bit, errs.CodeOf(err), err)
			}
		}
	}
}

func TestWrongPass(t *testing.T) {
	unit := cipher.Seal(pass, content(1000))
	for i := range 50 {
		wrong := cipher.NewPass(fmt.Sprint("wrong", i))
		got, err := cipher.Open(wrong, unit)
		if err == nil && bytes.Equal(got, content(1000)) || err != nil && errs.CodeOf(err) != errs.Crypto {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err != nil && (strings.Contains(err.Error(), "wrong"+fmt.Sprint(i)) || !strings.Contains(err.Error(), "HINT: ")) {
			t.Errorf("the error says %v", err)
		}
	}
	_, err := cipher.Open(pass, []byte("[backrest]\nbackrest-format=5\n"))
	if want := "cipher header invalid\nHINT: is the repository encrypted"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("what is not encrypted gives %v", err)
	}
}

// TestSource: an error of what is read comes as it is, wherever.
func TestSource(t *testing.T) {
	broken := errors.New("connection lost")
	unit := cipher.Seal(pass, content(600<<10))
	for _, n := range []int{0, 3, 8, 16, 17, 1000, 300 << 10, len(unit)} {
		r := cipher.NewReader(io.MultiReader(bytes.NewReader(unit[:n]), iotest.ErrReader(broken)), pass)
		_, err := io.Copy(io.Discard, r)
		if err != broken {
			t.Errorf("after %d bytes: %v", n, err)
		}
		if _, again := r.Read(make([]byte, 1)); again != broken {
			t.Errorf("after %d bytes, then: %v", n, again)
		}
		_ = r.Close()
	}
	r := cipher.NewReader(bytes.NewReader(unit), pass)
	_, _ = r.Read(make([]byte, 10))
	_ = r.Close()
	if _, err := r.Read(make([]byte, 1)); errs.CodeOf(err) != errs.Assert {
		t.Errorf("read after Close: %v", err)
	}
}

func TestSealWithout(t *testing.T) {
	b := []byte("as it is")
	if got := cipher.Seal(cipher.Pass{}, b); !bytes.Equal(got, b) {
		t.Errorf("sealed %q", got)
	}
	if got, err := cipher.Open(cipher.Pass{}, b); err != nil || !bytes.Equal(got, b) {
		t.Errorf("opened %q, %v", got, err)
	}
}

func TestGenerate(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		p := cipher.Generate()
		b, err := base64.StdEncoding.DecodeString(p.Reveal())
		if err != nil || len(b) != 48 || len(p.Reveal()) != 64 || seen[p.Reveal()] {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		seen[p.Reveal()] = true
	}
	one, two := cipher.Seal(pass, nil), cipher.Seal(pass, nil)
	if bytes.Equal(one, two) {
		t.Error("two units have one salt")
	}
}

// TestPassIsNotShown: in whatever way it is printed.
func TestPassIsNotShown(t *testing.T) {
	type holder struct {
		Pass   cipher.Pass
		hidden cipher.Pass
	}
	h := holder{pass, pass}
	j, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s %q %x %v %+v %#v %v", pass, pass, pass, pass, pass, pass, h, h, &h, []any{pass}) + string(j) + pass.String()
	if strings.Contains(shown, text) || strings.Contains(shown, text[:8]) {
		t.Errorf("shown as %s", shown)
	}
	if (cipher.Pass{}).Given() || cipher.NewPass("").Given() || !pass.Given() || pass.Reveal() != text {
		t.Error("Given or Reveal is wrong")
	}
}

// FuzzReader: no input is more than an error, and what is read can be written again.
func FuzzReader(f *testing.F) {
	f.Add([]byte(nil), false)
	f.Add([]byte("Salted__"), false)
	f.Add(cipher.Seal(pass, []byte("content")), false)
	f.Add(cipher.Seal(pass, []byte("0123456789abcdef"))[8:], true)
	f.Add([]byte("[backrest]\nbackrest-format=5\n"), false)
	f.Fuzz(func(t *testing.T, unit []byte, raw bool) {
		form := forms[0]
		if raw {
			form = forms[1]
		}
		got, err := io.ReadAll(form.reader(bytes.NewReader(unit), pass))
		if err != nil {
			if errs.CodeOf(err) != errs.Crypto || len(got) > 0 {
				t.Fatalf("%d bytes, [%d] %v", len(got), errs.CodeOf(err), err)
			}
			return
		}
		if len(unit) != form.header+len(got)+16-len(got)%16 {
			t.Fatalf("a unit of %d bytes has %d", len(unit), len(got))
		}
		e := form.encrypter(pass)
		if again, err := io.ReadAll(form.reader(bytes.NewReader(e.End(e.Append(nil, got))), pass)); err != nil || !bytes.Equal(again, got) {
			t.Fatalf("read again %d bytes of %d, %v", len(again), len(got), err)
		}
	})
}

// FuzzRoundTrip: whatever is written is read.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("content"), "pass", uint(3))
	f.Fuzz(func(t *testing.T, want []byte, words string, piece uint) {
		p := cipher.NewPass(words)
		if !p.Given() {
			return
		}
		for _, form := range forms {
			e := form.encrypter(p)
			var unit []byte
			for rest := want; len(rest) > 0; {
				n := int(min(max(piece, 1), uint(len(rest))))
				unit, rest = e.Append(unit, rest[:n]), rest[n:]
			}
			if got, err := io.ReadAll(form.reader(bytes.NewReader(e.End(unit)), p)); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("read %d bytes of %d, %v", len(got), len(want), err)
			}
		}
	})
}
