package pipeline_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"reflect"
	"testing"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// pages makes n sound pages, the first of them with number first.
func pages(n, size int, first uint32) []byte {
	b := rows(n * size)
	for i := range n {
		seal(b[i*size:(i+1)*size], first+uint32(i))
	}
	return b
}

func seal(page []byte, block uint32) {
	binary.LittleEndian.PutUint16(page[14:], uint16(len(page)/2)) // pd_upper
	binary.LittleEndian.PutUint16(page[8:], postgres.PageChecksum(page, block))
}

func checkPages(t testing.TB, content []byte, spec pipeline.PageSpec) *pipeline.PageResult {
	t.Helper()
	var last *pipeline.PageResult
	for _, typ := range []compress.Type{compress.None, compress.LZ4} {
		s, err := pipeline.NewStore(bytes.NewReader(content),
			pipeline.StoreSpec{Compress: typ, Level: typ.DefaultLevel(), Limit: -1, Pages: &spec})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.WriteTo(io.Discard); err != nil {
			t.Fatal(err)
		}
		if last != nil && !reflect.DeepEqual(last, s.Result().Pages) {
			t.Errorf("pages are judged differently when compressed: %+v, %+v", last, s.Result().Pages)
		}
		last = s.Result().Pages
	}
	return last
}

func TestPages(t *testing.T) {
	const size = 8192
	valid := &pipeline.PageResult{Valid: true, Aligned: true}
	failed := func(r ...pipeline.PageRange) *pipeline.PageResult {
		return &pipeline.PageResult{Aligned: true, Errors: r}
	}
	misaligned := &pipeline.PageResult{}
	for _, row := range []struct {
		name    string
		n       int
		first   uint32
		content func(b []byte) []byte
		want    *pipeline.PageResult
	}{
		{"sound", 300, 0, nil, valid},
		{"sound, second segment", 300, 131072, nil, valid},
		{"empty file", 0, 0, nil, valid},
		{"one bad", 300, 0, func(b []byte) []byte { b[5*size+100]++; return b }, failed(pipeline.PageRange{First: 5, Last: 5})},
		{"bad ones in the second segment, across a buffer's end", 300, 131072, func(b []byte) []byte {
			for _, i := range []int{0, 2, 3, 126, 127, 128, 129, 299} {
				b[i*size+100]++
			}
			return b
		}, failed(pipeline.PageRange{First: 131072, Last: 131072}, pipeline.PageRange{First: 131074, Last: 131075},
			pipeline.PageRange{First: 131198, Last: 131201}, pipeline.PageRange{First: 131371, Last: 131371})},
		{"never used", 3, 0, func(b []byte) []byte { clear(b[size:]); return b }, valid},
		{"never used but not zero", 3, 0, func(b []byte) []byte {
			clear(b[size : 2*size])
			b[2*size-1] = 1
			return b
		}, failed(pipeline.PageRange{First: 1, Last: 1})},
		{"remainder of 512", 3, 0, func(b []byte) []byte { return append(b, make([]byte, 512)...) }, misaligned},
		{"remainder of 511", 3, 0, func(b []byte) []byte { return append(b, make([]byte, 511)...) }, misaligned},
		{"bad page and remainder", 3, 0, func(b []byte) []byte { b[100]++; return append(b, 1) }, misaligned},
		{"less than a page", 0, 0, func([]byte) []byte { return make([]byte, 100) }, misaligned},
		{"wrong place", 2, 0, func(b []byte) []byte { return append(b[size:], b[:size]...) },
			failed(pipeline.PageRange{First: 0, Last: 1})},
	} {
		content := pages(row.n, size, row.first)
		if row.content != nil {
			content = row.content(content)
		}
		got := checkPages(t, content, pipeline.PageSpec{PageSize: size, FirstBlock: row.first, HeaderCheck: true,
			Reread: func(offset int64, page []byte) error {
				if len(page) != size {
					t.Errorf("%s: %d bytes are read again", row.name, len(page))
				}
				copy(page, content[offset:])
				return nil
			}})
		if !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: %+v, not %+v", row.name, got, row.want)
		}
		got = checkPages(t, content, pipeline.PageSpec{PageSize: size, FirstBlock: row.first, HeaderCheck: true})
		if !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s, without reading again: %+v, not %+v", row.name, got, row.want)
		}
	}
}

func TestPageSizes(t *testing.T) {
	for _, size := range []int{1024, 2048, 4096, 16384, 32768} {
		content := pages(100, size, 7)
		content[99*size+50]++
		got := checkPages(t, content, pipeline.PageSpec{PageSize: size, FirstBlock: 7, HeaderCheck: true})
		want := &pipeline.PageResult{Aligned: true, Errors: []pipeline.PageRange{{First: 106, Last: 106}}}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d: %+v", size, got)
		}
	}
}

func TestHeaderCheckOff(t *testing.T) {
	content := pages(2, 8192, 0)
	binary.LittleEndian.PutUint16(content[14:], 0)
	binary.LittleEndian.PutUint16(content[8:], postgres.PageChecksum(content[:8192], 0))
	if got := checkPages(t, content, pipeline.PageSpec{PageSize: 8192}); !got.Valid {
		t.Errorf("off: %+v", got)
	}
	if got := checkPages(t, content, pipeline.PageSpec{PageSize: 8192, HeaderCheck: true}); got.Valid {
		t.Errorf("on: %+v", got)
	}
}

// A page that fails and is another when it is read again is one that PostgreSQL writes.
func TestReread(t *testing.T) {
	content := pages(200, 8192, 0)
	for _, i := range []int{3, 150, 151} {
		content[i*8192+200]++
	}
	io5 := errors.New("input/output error")
	for _, row := range []struct {
		name   string
		reread func(page []byte) error // after page was filled from the file
		valid  bool
		err    error
	}{
		{"same", func([]byte) error { return nil }, false, nil},
		{"changed, though still not sound", func(p []byte) error { p[8191]++; return nil }, true, nil},
		{"cut off", func([]byte) error { return io.EOF }, true, nil},
		{"cut off within", func([]byte) error { return io.ErrUnexpectedEOF }, true, nil},
		{"dropped", func([]byte) error { return fs.ErrNotExist }, true, nil},
		{"unreadable", func([]byte) error { return io5 }, false, io5},
	} {
		var offsets []int64
		s, err := pipeline.NewStore(bytes.NewReader(content), pipeline.StoreSpec{
			Compress: compress.None, Limit: -1,
			Pages: &pipeline.PageSpec{PageSize: 8192, HeaderCheck: true, Reread: func(offset int64, page []byte) error {
				offsets = append(offsets, offset)
				copy(page, content[offset:])
				return row.reread(page)
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.WriteTo(io.Discard)
		if err != row.err {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if err != nil {
			continue
		}
		if got := s.Result().Pages; got.Valid != row.valid || !got.Aligned {
			t.Errorf("%s: %+v", row.name, got)
		}
		if want := []int64{3 * 8192, 150 * 8192, 151 * 8192}; !reflect.DeepEqual(offsets, want) {
			t.Errorf("%s: read again at %d", row.name, offsets)
		}
	}
}

// The limit ends the pass, also where it cuts a page: then the file is not aligned.
func TestPagesWithLimit(t *testing.T) {
	content := pages(10, 8192, 0)
	for _, row := range []struct {
		limit int64
		want  pipeline.PageResult
	}{
		{5 * 8192, pipeline.PageResult{Valid: true, Aligned: true}},
		{5*8192 + 1, pipeline.PageResult{}},
	} {
		_, res := store(t, bytes.NewReader(content), pipeline.StoreSpec{Compress: compress.None, Limit: row.limit, BufferSize: 1000,
			Pages: &pipeline.PageSpec{PageSize: 8192, HeaderCheck: true}})
		if !reflect.DeepEqual(*res.Pages, row.want) {
			t.Errorf("limit %d: %+v", row.limit, res.Pages)
		}
	}
}
