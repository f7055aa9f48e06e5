package remote_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

// TestPutWALRefuses: nothing that lies gets into the archive.
func TestPutWALRefuses(t *testing.T) {
	with := func(change func(*header)) []byte {
		h := good
		change(&h)
		return h.make(segmentSize)
	}
	whole := good.make(segmentSize)
	for _, test := range []struct {
		what string
		in   []byte
		name string
		code errs.Code
		want string
	}{
		{"other cluster", with(func(h *header) { h.system = 8 }), "", errs.ArchiveMismatch,
			"WAL file 'NAME' version 15, system-id 8 do not match stanza version 15, system-id 7"},
		{"other version", with(func(h *header) { h.magic = 0xD10D }), "", errs.ArchiveMismatch,
			"WAL file 'NAME' version 14, system-id 7 do not match stanza version 15, system-id 7"},
		{"other segment", whole, "000000020000000100000008", errs.Format,
			"WAL file 'NAME': WAL header is that of the segment at 1/700000, the name is that of the one at 1/800000"},
		{"earlier timeline", whole, "000000010000000100000007", errs.Format,
			"WAL file 'NAME': WAL header is of timeline 2, which the segment of timeline 1 cannot begin with"},
		{"no such segment", whole, "000000020000000100001000", errs.Format,
			"WAL file 'NAME': there is no segment '000000020000000100001000' where segments have 1048576 bytes"},
		{"no timeline", with(func(h *header) { h.timeline = 0 }), "", errs.Format,
			"WAL file 'NAME': WAL header is of timeline 0, which the segment of timeline 2 cannot begin with"},
		{"no WAL", with(func(h *header) { h.magic = 0x4D5A }), "", errs.VersionNotSupported, "WAL file 'NAME': unexpected WAL magic 0x4D5A: it is not PostgreSQL's"},
		{"zeros", make([]byte, segmentSize), "", errs.Format, "WAL file 'NAME': first page header in WAL file is expected to be in long format"},
		{"segment size", with(func(h *header) { h.size = 3 << 20 }), "", errs.Format, "WAL file 'NAME': WAL header: wal segment size is 3145728, not a power of two"},
		{"short", whole[:segmentSize-1], "", errs.FileInvalid, "WAL file 'NAME' has 1048575 bytes, which is not a segment"},
		{"shorter than a header", whole[:39], "", errs.FileInvalid, "WAL file 'NAME' has 39 bytes, which is not a segment"},
		{"long", append(good.make(segmentSize), 0), "", errs.FileInvalid, "WAL file 'NAME' is longer than a segment, which has 1048576 bytes"},
		{"bomb", append(good.make(segmentSize), make([]byte, 16<<20)...), "", errs.FileInvalid, "WAL file 'NAME' is longer than a segment, which has 1048576 bytes"},
		{"no name", whole, "archive.info", errs.Format, "'NAME' is not the name of a WAL segment"},
		{"a path", whole, "../../" + segment, errs.Format, "'NAME' is not the name of a WAL segment"},
		{"lower case", whole, "00000002000000010000000a", errs.Format, "'NAME' is not the name of a WAL segment"},
	} {
		for _, codec := range codecs {
			if test.code != errs.FileInvalid && codec != compress.None && codec != compress.LZ4 {
				continue // how it is compressed matters only where it ends
			}
			st := storagetest.NewMemory(time.Now)
			a, _ := archive(t, st, remote.ArchiveOptions{})
			before := listed(t, st, "", storage.Listing{Recurse: true})
			name := test.name
			if name == "" {
				name = segment
			}
			_, err := a.PutWAL(t.Context(), id, source(name, test.in, codec))
			if want := strings.ReplaceAll(test.want, "NAME", name); errs.CodeOf(err) != test.code || !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%s, %s: [%d] %v", test.what, codec, errs.CodeOf(err), err)
			}
			if after := listed(t, st, "", storage.Listing{Recurse: true}); !slices.Equal(after, before) {
				t.Errorf("%s, %s: left is %q", test.what, codec, after)
			}
		}
	}
}

// TestPutWALRaw: clients that compress badly, or lie about it.
func TestPutWALRaw(t *testing.T) {
	whole := good.make(segmentSize)
	for _, codec := range codecs {
		putRaw(t, codec, "sha1", fmt.Sprintf("%x", sha1.Sum(whole)), fmt.Sprintf("%x", sha1.Sum(nil)))
		putRaw(t, codec, "xxh3", fmt.Sprintf("%x", xxh3.Hash128(whole).Bytes()), fmt.Sprintf("%x", xxh3.Hash128(nil).Bytes()))
	}
}

// putRaw is TestPutWALRaw with a checksum of one kind.
func putRaw(t *testing.T, codec compress.Type, kind, sum, other string) {
	whole := good.make(segmentSize)
	packed := pack(t, whole, codec)
	for what, test := range map[string]struct {
		sent []byte
		args obj
		code errs.Code
	}{
		"other checksum": {packed, obj{kind: other}, errs.Checksum},
		"no checksum":    {packed, obj{kind: ""}, errs.Checksum},
		"half checksum":  {packed, obj{kind: sum[:20]}, errs.Format},
		"path":           {packed, obj{kind: "../../" + sum[6:]}, errs.Format},
		"unknown codec":  {packed, obj{"compress": "../x"}, errs.Format},
		"no codec":       {packed, obj{"compress": ""}, errs.Format},
		"unknown field":  {packed, obj{"object": "x"}, errs.Protocol},
		"no such id":     {packed, obj{"archive_id": "15-2"}, errs.ArchiveMismatch},
		"path as id":     {packed, obj{"archive_id": "../other-1"}, errs.Format},
		"cut":            {packed[:len(packed)-1], nil, 0},
		"nothing":        {nil, nil, 0},
		"and more":       {append(bytes.Clone(packed), make([]byte, 1<<20)...), nil, 0},
		"endless":        {endless(packed, codec), nil, 0},
	} {
		st := storagetest.NewMemory(time.Now)
		service := services(t, st)[remote.RoleArchive]
		before := listed(t, st, "", storage.Listing{Recurse: true})
		args := obj{"archive_id": "15-1", "name": segment, kind: sum, "compress": codec}
		maps.Copy(args, test.args)
		err := dial(t, remote.RoleArchive, service).Send(t.Context(), "wal-put", args, bytes.NewReader(test.sent), nil)
		code := errs.CodeOf(err)
		if code != test.code && (test.code != 0 || code != errs.Format && code != errs.Checksum && code != errs.FileInvalid) {
			t.Errorf("%s, %s, %s: [%d] %v", what, codec, kind, code, err)
		}
		if after := listed(t, st, "", storage.Listing{Recurse: true}); !slices.Equal(after, before) {
			t.Errorf("%s, %s: left is %q", what, codec, after)
		}
	}
}

// pack compresses as a client does.
func pack(t testing.TB, content []byte, codec compress.Type) []byte {
	t.Helper()
	var b bytes.Buffer
	if codec == compress.None {
		return content
	}
	w, err := compress.NewWriter(codec, codec.DefaultLevel(), &b)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(content)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// endless puts what has no content before the packed content, where the codec knows such a
// thing: 64 MiB of frames to be skipped.
func endless(packed []byte, codec compress.Type) []byte {
	const size = 64 << 20
	skip := binary.LittleEndian.AppendUint32([]byte{0x50, 0x2A, 0x4D, 0x18}, size)
	return slices.Concat(skip, make([]byte, size), packed)
}
