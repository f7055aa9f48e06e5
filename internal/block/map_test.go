package block_test

import (
	"encoding/hex"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sum is a checksum that begins with these bytes.
func sum(text string) (s [16]byte) {
	b, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	copy(s[:], b)
	return s
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// maps are in the form that pgBackRest writes. The first two are worked out in section 8.3 of the repository format.
var maps = []struct {
	name, text string
	blockSize  int64
	sumSize    int
	items      []block.Item
}{
	{"full", "00 03 03 fb09 06 4094d983ff74 010203040506 111213141516", 8192, 6, []block.Item{
		{0, 3, 0, 159, 24576, 0, sum("4094d983ff74")},
		{0, 3, 0, 159, 24576, 1, sum("010203040506")},
		{0, 3, 0, 159, 24576, 2, sum("111213141516")},
	}},
	{"a block has changed", "00 06 02 989006 dfd201 08 00 ec129b000d11" + "0e 01 a402 99a001 3f0eb81d4eba" +
		"07 03 01 0f04f826b314 f6efe7b65090", 8192, 6, []block.Item{
		{0, 2, 100376, 3371, 32768, 0, sum("ec129b000d11")},
		{1, 1, 292, 2089, 8192, 0, sum("3f0eb81d4eba")},
		{0, 2, 100376, 3371, 32768, 2, sum("0f04f826b314")},
		{0, 2, 100376, 3371, 32768, 3, sum("f6efe7b65090")},
	}},
	{"one short block in an object of its own", "00 01 2b 01 64 ff", 16384, 1, []block.Item{
		{0, 0, 0, 5, 100, 0, sum("ff")},
	}},
}

func TestMap(t *testing.T) {
	for _, c := range maps {
		t.Run(c.name, func(t *testing.T) {
			text := unhex(t, c.text)
			m, err := block.Parse(text, -1, c.blockSize, c.sumSize)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(m.Items, c.items) {
				t.Errorf("got  %+v\nwant %+v", m.Items, c.items)
			}
			if got := m.Append([]byte("x")); string(got[1:]) != string(text) || got[0] != 'x' {
				t.Errorf("encoded as %x\nnot        %x", got[1:], text)
			}
		})
	}
}

// Maps that no Encoder makes are kept as they are, if they can be at all.
func TestMapRoundTrip(t *testing.T) {
	at := func(reference int, offset, size int64, index int) block.Item {
		return block.Item{Reference: reference, Bundle: uint32(reference), Offset: offset, Size: size, SuperSize: 24577, Index: index}
	}
	for name, items := range map[string][]block.Item{
		"gap within a backup":          {at(0, 0, 5, 0), at(0, 10, 5, 0)},
		"gap within a super block":     {at(0, 0, 5, 0), at(0, 0, 5, 3)},
		"first blocks are not wanted":  {at(0, 7, 5, 2), at(0, 7, 5, 3), at(0, 12, 5, 1)},
		"continued twice, and goes on": {at(0, 7, 5, 0), at(1, 0, 9, 0), at(0, 7, 5, 2), at(1, 0, 9, 1), at(0, 7, 5, 3), at(0, 12, 8, 0), at(2, 1, 1, 1)},
		"goes on behind a gap":         {at(3, 7, 5, 0), at(1, 0, 9, 0), at(3, 100, 5, 2), at(1, 1<<40, 9, 1), at(3, 105, 50, 0)},
	} {
		m := &block.Map{BlockSize: 8192, SumSize: 16, Items: items}
		for i := range items {
			items[i].Sum = block.Sum([]byte{byte(i)})
		}
		got, err := block.Parse(m.Append(nil), -1, 8192, 16)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(got, m) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got.Items, m.Items)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                      "",
		"version":                      "01 03 03 fb09 06 4094d9",
		"no run":                       "00",
		"bytes behind the end":         "00 01 09 11 22",
		"checksum cut":                 "00 01 09",
		"number cut":                   "00 01 89",
		"number of 70 bits":            "00 01 ffffffffffffffffffff7f 11",
		"reference":                    "00 81808080808001 09 11",
		"bundle":                       "00 03 8080808010 09 11",
		"offset":                       "00 05 808080808080808002 09 11",
		"stored size 0":                "00 01 01 11",
		"stored size huge":             "00 01 8180808080808002 11",
		"stored size below 0":          "00 01 08 11 19 11",
		"super block of nothing":       "00 01 0b 00 11",
		"super block larger than most": "00 01 0b 80808008 11",
		"remainder":                    "00 01 0b 01 8040 11",
		"too many blocks":              "00 01 0d 02 11 11",
		"block behind the end":         "00 01 0d 01 01 11",
		"more blocks than checksums":   "00 01 0d feffffff0f 11",
	} {
		_, err := block.Parse(unhex(t, text), -1, 8192, 1)
		if errs.CodeOf(err) != errs.Format {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []struct {
		blockSize int64
		sumSize   int
	}{{0, 6}, {8191, 6}, {-8192, 6}, {1 << 40, 6}, {8192, 0}, {8192, 17}} {
		if _, err := block.Parse(unhex(t, "00 01 09 11"), -1, c.blockSize, c.sumSize); errs.CodeOf(err) != errs.Format {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestParseOfFile: the map of a file has as many blocks as the file, no more and no fewer.
func TestParseOfFile(t *testing.T) {
	m := &block.Map{BlockSize: 8192, SumSize: 1}
	for i := range 3 {
		m.Items = append(m.Items, block.Item{Size: 10, SuperSize: 3 * 8192, Index: i})
	}
	text := m.Append(nil)
	for size, sound := range map[int64]bool{
		-1: true, 2*8192 + 1: true, 3 * 8192: true, 0: false, 1: false, 2 * 8192: false, 3*8192 + 1: false, math.MaxInt64: false,
	} {
		if _, err := block.Parse(text, size, 8192, 1); sound && err != nil || !sound && errs.CodeOf(err) != errs.Format {
			t.Errorf("of %d bytes: %v", size, err)
		}
	}
}

// TestParseAllocates: what has a length but no blocks takes no memory for them.
func TestParseAllocates(t *testing.T) {
	text := make([]byte, 64<<20)
	text[0] = 1 // no version there is
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := block.Parse(text, -1, 8192, 1); errs.CodeOf(err) != errs.Format {
		t.Errorf("error is %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
		t.Errorf("%d MiB were allocated", n>>20)
	}
}

// TestSum: as xxhsum -H2 has it.
func TestSum(t *testing.T) {
	if got := block.Sum(nil); got != sum("99aa06d3014798d86001c324468d497f") {
		t.Errorf("%x", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range maps {
		f.Add(unhex(f, c.text), uint16(c.blockSize/block.Unit), uint8(c.sumSize))
	}
	f.Fuzz(func(t *testing.T, text []byte, units uint16, sumSize uint8) {
		m, err := block.Parse(text, -1, int64(units)*block.Unit, int(sumSize))
		if err != nil {
			if errs.CodeOf(err) != errs.Format {
				t.Fatal(err)
			}
			return
		}
		again, err := block.Parse(m.Append(nil), -1, m.BlockSize, m.SumSize)
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%v\ngot  %+v\nwant %+v", err, again, m)
		}
	})
}
