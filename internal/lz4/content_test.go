package lz4_test

import (
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"

	reference "github.com/pierrec/lz4/v4"

	"github.com/pgx-backup/pgx/internal/lz4"
)

const blockSize = 256 << 10

func blocks(content []byte) iter.Seq[[]byte] { return slices.Chunk(content, blockSize) }

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// contents are like what a database writes, each of size bytes, the same every time.
func contents(size int) map[string][]byte {
	return map[string][]byte{"heap": heap(size), "mixed": mixed(size), "wal": wal(size), "noise": noise(size)}
}

var words = []string{"order", "invoice", "customer", "pending", "shipped", "the", "of", "balance", "region", "europe",
	"account", "and", "returned", "payment", "a", "description", "longer", "than", "usual", "card"}

func text(r *rand.Rand, n int) (s string) {
	for range n {
		s += words[r.IntN(len(words))] + " "
	}
	return s
}

// mixed is rows of json, text, numbers and hashes.
func mixed(size int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b []byte
	for i := 0; len(b) < size; i++ {
		b = fmt.Appendf(b, `{"id":%d,"name":"%s","amount":%d.%02d,"note":"%s"}`, i, text(r, 2), r.IntN(10000), r.IntN(100), text(r, 1+r.IntN(12)))
		b = binary.LittleEndian.AppendUint64(b, uint64(1700000000000000+int64(i)*r.Int64N(1e6)))
		b = fmt.Appendf(b, "%x\t", md5.Sum([]byte{byte(i), byte(i >> 8), byte(i >> 16)}))
	}
	return b[:size]
}

// page is one of a table like those of pgbench, filled with its rows.
func page(r *rand.Rand, first int) []byte {
	const tuple = 128
	p := make([]byte, 8192)
	binary.LittleEndian.PutUint64(p, r.Uint64N(1<<34))
	lower, upper := 24, len(p)
	for i := 0; upper-lower > tuple+4; i++ {
		upper -= tuple
		binary.LittleEndian.PutUint32(p[lower:], uint32(upper)|1<<15|121<<17)
		lower += 4
		row := p[upper:]
		binary.LittleEndian.PutUint32(row, uint32(700+r.IntN(50)*r.IntN(2)))
		binary.LittleEndian.PutUint16(row[12:], uint16(i+1))
		binary.LittleEndian.PutUint32(row[18:], 0x0902_0004)
		binary.LittleEndian.PutUint32(row[24:], uint32(first+i))
		binary.LittleEndian.PutUint32(row[28:], uint32((first+i)/100_000+1))
		binary.LittleEndian.PutUint32(row[32:], uint32(r.IntN(10000)-5000))
		for j := 36; j < 121; j++ {
			row[j] = ' '
		}
	}
	binary.LittleEndian.PutUint16(p[12:], uint16(lower))
	binary.LittleEndian.PutUint16(p[14:], uint16(upper))
	return p
}

func heap(size int) []byte {
	r := rand.New(rand.NewPCG(3, 4))
	var b []byte
	for i := 0; len(b) < size; i++ {
		b = append(b, page(r, i*61)...)
	}
	return b[:size]
}

// wal is records of small changes, with a page's image now and then.
func wal(size int) []byte {
	r := rand.New(rand.NewPCG(5, 6))
	var b []byte
	for xid := uint32(800); len(b) < size; xid++ {
		for table := range uint32(4) {
			n := 24 + 20 + 8 + []int{90, 40, 40, 60}[table]
			b = binary.LittleEndian.AppendUint32(b, uint32(n))
			b = binary.LittleEndian.AppendUint32(b, xid)
			b = binary.LittleEndian.AppendUint64(b, uint64(len(b)-150)+0x1700_0000)
			b = append(b, byte(table<<4), 10, 0, 0)
			b = binary.LittleEndian.AppendUint32(b, r.Uint32()) // a checksum
			for _, v := range []uint32{0x0020_0000, 1663, 5, 16400 + table, r.Uint32N(30000 >> (4 * table))} {
				b = binary.LittleEndian.AppendUint32(b, v)
			}
			row := make([]byte, n-24-20)
			binary.LittleEndian.PutUint32(row[4:], r.Uint32N(2_000_000))
			binary.LittleEndian.PutUint32(row[12:], r.Uint32N(10_000))
			for j := 30; j < len(row); j++ {
				row[j] = ' '
			}
			b = append(b, row...)
			for len(b)%8 != 0 {
				b = append(b, 0)
			}
		}
		if r.IntN(12) == 0 {
			b = append(b, page(r, r.IntN(2_000_000))...)
		}
	}
	return b[:size]
}

func BenchmarkEncode(b *testing.B) {
	var ours lz4.Encoder
	var theirs reference.CompressorCCompat
	encoders := []struct {
		name   string
		encode func(dst, src []byte) int
	}{
		{"ours", func(dst, src []byte) int { return ours.Encode(dst, src, 1) }},
		{"pierrec", func(dst, src []byte) int {
			n, err := theirs.CompressBlock(src, dst)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}},
	}
	dst := make([]byte, lz4.Bound(blockSize))
	all := contents(16 << 20)
	for _, name := range []string{"heap", "mixed", "wal", "noise"} {
		for _, e := range encoders {
			b.Run(name+"/"+e.name, func(b *testing.B) {
				b.SetBytes(int64(len(all[name])))
				stored := 0
				for b.Loop() {
					stored = 0
					for src := range blocks(all[name]) {
						n := e.encode(dst, src)
						if n == 0 || n > len(src) {
							n = len(src)
						}
						stored += n
					}
				}
				b.ReportMetric(100*float64(stored)/float64(len(all[name])), "%stored")
			})
		}
	}
}
