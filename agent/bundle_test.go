package agent_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// drain reads a bundle to its end, in one of two ways.
func drain(b agent.Bundle, whole bool) ([]byte, error) {
	var got bytes.Buffer
	var err error
	if whole {
		_, err = b.WriteTo(&got)
	} else {
		var head [3]byte
		var n int
		n, err = b.Read(head[:])
		got.Write(head[:n])
		if err == nil {
			_, err = io.CopyBuffer(&got, struct{ io.Reader }{b}, make([]byte, 1000))
		} else if err == io.EOF {
			err = nil
		}
	}
	return got.Bytes(), err
}

// TestHostBundle: near and far, a bundle is what is stored of each file, one after the other, and
// its results tell where, and what became of the others.
func TestHostBundle(t *testing.T) {
	c := cluster(t)
	c.Stop(pgtest.Fast)
	control, err := local(c).Control(t.Context())
	must(t, err)
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
	must(t, os.WriteFile(filepath.Join(c.PGDATA, "base/5/16777216"), large, 0o600))
	must(t, os.WriteFile(filepath.Join(c.PGDATA, "base/5/16777217"), nil, 0o600))
	hosts(t, c, func(t *testing.T, h agent.Host) {
		for _, codec := range []compress.Type{compress.None, compress.Gzip, compress.Zstd} {
			for _, pass := range []string{"", "secret"} {
				how := pgdata.Read{Limit: -1, Compress: codec, Level: codec.DefaultLevel(), Cipher: cipher.NewPass(pass)}
				var files []pgdata.Read
				add := func(name string, change func(*pgdata.Read)) {
					r := how
					r.Name = name
					if change != nil {
						change(&r)
					}
					files = append(files, r)
				}
				expect := func(content []byte) func(*pgdata.Read) {
					return func(r *pgdata.Read) {
						r.Expected = &pgdata.Expected{Size: int64(len(content)), SHA1: sha1.Sum(content), Always: true}
					}
				}
				add("pg_data/base/5/16777217", nil)
				add("pg_data/base/5/gone", nil)
				add("pg_data/base/5/16777216", expect(large))
				add("pg_data/base/5/16777216", expect(nil))
				add("pg_data/latin1-\xe4", nil)
				for i, e := range entries(t, h) {
					if e.Kind == pgdata.File && i%7 == 0 && e.Size < 1<<20 {
						add(e.Name, func(r *pgdata.Read) {
							if strings.Contains(e.Name, "/base/5/") && i%2 == 0 {
								r.Pages = &pgdata.Pages{Size: control.PageSize, Segment: control.SegmentPages, Header: true}
							}
						})
					}
				}
				add("pg_data/global/pg_control", nil)
				add("pg_data/base/5/gone", nil)
				for _, whole := range []bool{true, false} {
					b, err := h.OpenBundle(t.Context(), files)
					must(t, err)
					got, err := drain(b, whole)
					must(t, errors.Join(err, b.Close()))
					results := b.Results()
					if len(results) != len(files) {
						t.Fatalf("%d results of %d files", len(results), len(files))
					}
					next := int64(0)
					for i, r := range results {
						want := sameInBundle(t, local(c), files[i])
						want.Offset = next
						if want.Fate != agent.Stored || want.Size == 0 {
							want.Offset = r.Offset
						}
						if pass != "" { // with a salt
							want.RepoSHA1 = r.RepoSHA1
						}
						if !reflect.DeepEqual(r, want) {
							t.Fatalf("%s %d, %q: %+v, want %+v", codec, i, files[i].Name, r, want)
						}
						if r.Fate == agent.Stored && sha1.Sum(got[next:next+r.RepoSize]) != r.RepoSHA1 {
							t.Errorf("%s %d, %q: other bytes are at %d", codec, i, files[i].Name, next)
						}
						next += r.RepoSize
					}
					if next != int64(len(got)) {
						t.Errorf("%d bytes, of files %d", len(got), next)
					}
				}
			}
		}
	})
}

// sameInBundle gives what should be told of a file, by what Open tells.
func sameInBundle(t *testing.T, h agent.Host, r pgdata.Read) agent.FileResult {
	t.Helper()
	in, err := h.Open(t.Context(), r)
	switch {
	case errors.Is(err, pgdata.ErrUnchanged):
		return agent.FileResult{Fate: agent.Unchanged}
	case errs.CodeOf(err) == errs.FileMissing && err != nil:
		return agent.FileResult{Fate: agent.Vanished}
	}
	must(t, err)
	_, err = in.WriteTo(io.Discard)
	must(t, errors.Join(err, in.Close()))
	want := agent.FileResult{Result: in.Result()}
	if want.Size == 0 {
		want.RepoSize, want.RepoSHA1 = 0, want.SHA1
	}
	return want
}

func TestHostBundleEnds(t *testing.T) {
	c := cluster(t)
	c.Stop(pgtest.Fast)
	must(t, os.WriteFile(filepath.Join(c.PGDATA, "base/5/16777216"), bytes.Repeat([]byte("0123456789abcdef"), 1<<20), 0o600))
	large := pgdata.Read{Name: "pg_data/base/5/16777216", Limit: -1, Compress: compress.None}
	hosts(t, c, func(t *testing.T, h agent.Host) {
		b, err := h.OpenBundle(t.Context(), nil)
		must(t, err)
		if got, err := drain(b, false); err != nil || len(got) != 0 || len(b.Results()) != 0 {
			t.Errorf("of no files %d bytes came, %v", len(got), err)
		}
		must(t, b.Close())
		_, err = h.OpenBundle(t.Context(), slices.Repeat([]pgdata.Read{large}, agent.MaxBundle+1))
		wantCode(t, err, errs.ParamInvalid)

		// An error ends it and names the file.
		bad := large
		bad.Name = "pg_data/base/5"
		for _, files := range [][]pgdata.Read{{bad, large}, {large, bad}} {
			var got []byte
			b, err := h.OpenBundle(t.Context(), files)
			if err == nil {
				got, err = drain(b, true)
				must(t, b.Close())
			}
			if wantCode(t, err, errs.FileOpen); err == nil || !strings.Contains(err.Error(), "copy 'pg_data/base/5': unable to open file") {
				t.Errorf("after %d bytes: %v", len(got), err)
			}
		}

		for range 6 { // more than there are sessions
			b, err := h.OpenBundle(t.Context(), []pgdata.Read{large, large})
			must(t, err)
			_, err = io.ReadFull(b, make([]byte, 17<<20))
			if n := len(b.Results()); err != nil || n != 1 {
				t.Errorf("in the middle of the second file %d are done, %v", n, err)
			}
			must(t, b.Close())
			if _, err := b.Read(make([]byte, 1)); err == nil {
				t.Error("it is read after it was closed")
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		if b, err = h.OpenBundle(ctx, []pgdata.Read{large, large}); err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadFull(b, make([]byte, 1000))
		must(t, err)
		cancel()
		if _, err := io.Copy(io.Discard, b); !isCancelled(err) {
			t.Errorf("error of a cancelled bundle is %v", err)
		}
		must(t, b.Close())
	})
}

// record is one as it is sent.
func record(text string) string {
	return string(binary.AppendUvarint(nil, uint64(len(text)))) + text
}

func chunk(text string) string { return record(text) }

// TestHostileBundle: what an agent says of files that cannot be so is found.
func TestHostileBundle(t *testing.T) {
	sum := `"AAAAAAAAAAAAAAAAAAAAAAAAAAA="`
	stored := "\x00" + record(`{"size":3,"sha1":`+sum+`,"repo_size":3,"repo_sha1":`+sum+`}`)
	none := "\x00" + record(`{"vanished":true}`)
	said := func(size, repoSize, mapSize int) string {
		return "\x00" + record(saidOf(size, repoSize, mapSize))
	}
	whole, blocks, mapped := (*pgdata.Blocks)(nil), &pgdata.Blocks{}, &pgdata.Blocks{Prior: []byte{0}}
	for _, c := range []struct {
		name, data, want string
		known            bool
		blocks           *pgdata.Blocks
	}{
		{name: "as it should be", data: chunk("abc") + stored + none},
		{name: "as it should be, in two", data: chunk("ab") + chunk("c") + stored + none},
		{name: "unchanged", data: "\x00" + record(`{"unchanged":true}`) + none, known: true},
		{name: "nothing", want: "what was sent is cut"},
		{name: "one too few", data: chunk("abc") + stored, want: "what was sent is cut"},
		{name: "one too many", data: none + none + none, want: "more was sent than 2 files"},
		{name: "bytes too many", data: none + none + chunk("a"), want: "more was sent than 2 files"},
		{name: "cut in a chunk", data: "\x05abc", want: "what was sent is cut"},
		{name: "cut in a record", data: "\x00\x05{}", want: "what was sent is cut"},
		{name: "cut before a record", data: "\x00", want: "what was sent is cut"},
		{name: "no record", data: "\x00" + record("abc"), want: "a record cannot be read"},
		{name: "no length", data: strings.Repeat("\xff", 20), want: "at once are too many"},
		{name: "no end of a length", data: strings.Repeat("\x80", 20), want: "a length has too many digits"},
		{name: "a large record", data: "\x00\xff\xff\xff\xff\x7f", want: "at once are too many"},
		{name: "of another size", data: chunk("ab") + stored + none, want: "cannot be true"},
		{name: "vanished with bytes", data: chunk("ab") + none + none, want: "cannot be true"},
		{name: "unchanged, which nobody asked", data: "\x00" + record(`{"unchanged":true}`) + none, want: "cannot be true"},
		{name: "both", data: "\x00" + record(`{"unchanged":true,"vanished":true}`) + none, known: true, want: "cannot be true"},
		{name: "empty", data: said(0, 0, 0) + none},
		{name: "nothing of bytes", data: said(3, 0, 0) + none, blocks: whole, want: "cannot be true"},
		{name: "a map, which nobody asked for", data: chunk("abc") + said(3, 3, 1) + none, blocks: whole, want: "cannot be true"},
		{name: "in blocks", data: chunk("abc") + said(3, 3, 1) + none, blocks: blocks},
		{name: "in blocks, empty", data: said(0, 0, 0) + none, blocks: blocks},
		{name: "in blocks without a map", data: chunk("abc") + said(3, 3, 0) + none, blocks: blocks, want: "cannot be true"},
		{name: "a map larger than all", data: chunk("abc") + said(3, 3, 4) + none, blocks: blocks, want: "cannot be true"},
		{name: "in blocks of nothing", data: chunk("abc") + said(0, 3, 1) + none, blocks: blocks, want: "cannot be true"},
		{name: "in blocks, nothing of bytes", data: said(3, 0, 0) + none, blocks: blocks, want: "cannot be true"},
		{name: "in known blocks, unchanged", data: "\x00" + record(`{"unchanged":true}`) + none, blocks: mapped},
		{name: "in known blocks, nothing of bytes", data: said(3, 0, 0) + none, blocks: mapped, want: "cannot be true"},
	} {
		files := []pgdata.Read{{Name: "pg_data/x", Compress: compress.None}, {Name: "pg_data/y", Compress: compress.None}}
		if c.known {
			files[0].Expected = &pgdata.Expected{}
		}
		files[0].Blocks = c.blocks
		for _, whole := range []bool{true, false} {
			b, err := hostile(t, json.RawMessage("null"), []byte(c.data)).OpenBundle(t.Context(), files)
			if err == nil {
				_, err = drain(b, whole)
				must(t, b.Close())
			}
			if c.want == "" && err != nil || c.want != "" && (errs.CodeOf(err) != errs.Protocol || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
		}
	}
}

// TestHostileBundleTellsMuch: what is told of the files of a bundle is bounded, not only what is told of each.
func TestHostileBundleTellsMuch(t *testing.T) {
	ruins := func(ranges int) string {
		errors, err := json.Marshal(bytes.Repeat([]byte{1, 0}, ranges))
		must(t, err)
		return "abc\x00" + record(strings.TrimSuffix(saidOf(3, 3, 0), "}")+`,"pages":{"aligned":true,"errors":`+string(errors)+`}}`)
	}
	const most = 32 << 20 / 8 * 3 // ranges that would fit if nothing else was told
	checked := pgdata.Read{Name: "pg_data/x", Compress: compress.None, Pages: &pgdata.Pages{Size: 8192, Segment: 131072}}
	unchecked := pgdata.Read{Name: "pg_data/x", Compress: compress.None}
	for _, c := range []struct {
		name  string
		data  string
		files []pgdata.Read
		want  string
	}{
		{"as much as may be", strings.Repeat("\x03"+ruins(most/4-1000), 4), slices.Repeat([]pgdata.Read{checked}, 4), ""},
		{"too much of all", strings.Repeat("\x03"+ruins(most/8), 9), slices.Repeat([]pgdata.Read{checked}, 9), "at once are too many"},
		{"too much of one", "\x03" + ruins(most/2), []pgdata.Read{checked}, "at once are too many"},
		{"nobody asked", "\x03" + ruins(1), []pgdata.Read{unchecked}, "cannot be true"},
	} {
		b, err := hostile(t, json.RawMessage("null"), []byte(c.data)).OpenBundle(t.Context(), c.files)
		must(t, err)
		_, err = drain(b, true)
		must(t, b.Close())
		if c.want == "" && err != nil || c.want != "" && (errs.CodeOf(err) != errs.Protocol || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// saidOf is what an agent says of a file of these sizes.
func saidOf(size, repoSize, mapSize int) string {
	const sum = `"AAAAAAAAAAAAAAAAAAAAAAAAAAA="`
	return fmt.Sprintf(`{"size":%d,"sha1":%s,"repo_size":%d,"repo_sha1":%s,"map_size":%d}`, size, sum, repoSize, sum, mapSize)
}

// TestHostileFile: the same of a file on its own.
func TestHostileFile(t *testing.T) {
	blocks, mapped := &pgdata.Blocks{}, &pgdata.Blocks{Prior: []byte{0}}
	for _, c := range []struct {
		name, data           string
		size, repo, mapBytes int
		blocks               *pgdata.Blocks
		bad                  bool
	}{
		{name: "whole", data: "abc", size: 3, repo: 3},
		{name: "empty", data: ""},
		{name: "empty, compressed", data: "abc", repo: 3},
		{name: "nothing of bytes", size: 3, bad: true},
		{name: "a map, which nobody asked for", data: "abc", size: 3, repo: 3, mapBytes: 1, bad: true},
		{name: "in blocks", data: "abc", size: 3, repo: 3, mapBytes: 1, blocks: blocks},
		{name: "in blocks, empty", blocks: blocks},
		{name: "in blocks without a map", data: "abc", size: 3, repo: 3, blocks: blocks, bad: true},
		{name: "a map larger than all", data: "abc", size: 3, repo: 3, mapBytes: 4, blocks: blocks, bad: true},
		{name: "in blocks of nothing", data: "abc", repo: 3, mapBytes: 1, blocks: blocks, bad: true},
		{name: "in blocks, nothing of bytes", size: 3, blocks: blocks, bad: true},
		{name: "in known blocks, nothing of bytes", size: 3, blocks: mapped},
		{name: "in known blocks", data: "abc", size: 3, repo: 3, mapBytes: 3, blocks: mapped},
		{name: "in known blocks without a map", data: "abc", size: 3, repo: 3, blocks: mapped, bad: true},
	} {
		read := pgdata.Read{Name: "pg_data/x", Compress: compress.None, Limit: -1, Blocks: c.blocks}
		in, err := hostile(t, json.RawMessage(saidOf(c.size, c.repo, c.mapBytes)), []byte(c.data)).Open(t.Context(), read)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		_, err = in.WriteTo(io.Discard)
		must(t, in.Close())
		if !c.bad && err != nil || c.bad && (errs.CodeOf(err) != errs.Protocol || !strings.Contains(err.Error(), "cannot be true")) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestBundleRequests: what a client asks for that cannot be is refused, and takes no memory.
func TestBundleRequests(t *testing.T) {
	const name = `"name":"pg_data/PG_VERSION","limit":-1`
	for _, c := range []struct {
		data, want string
		code       errs.Code
	}{
		{data: ""},
		{data: record(`{` + name + `,"compress":"none"}`)},
		{data: record(`{`+name+`,"compress":"none"}`) + record(`{`+name+`,"same":true}`)},
		{data: record(`{` + name + `,"same":true}`), code: errs.Format, want: "compress type '' is not known"},
		{data: record(`{`+name+`,"compress":"none"}`) + record(`{"name":"/etc/passwd","same":true}`), code: errs.ParamInvalid, want: "copy '/etc/passwd': '/etc/passwd' is not the name of a file in a data directory"},
		{data: record(`{"name":"pg_data/PG_VERSION","limit":-2,"compress":"none"}`), code: errs.ParamInvalid, want: "limit -2"},
		{data: "\x05{}", code: errs.Protocol, want: "what was sent is cut"},
		{data: "\xff\xff\xff\xff\x7f", code: errs.Protocol, want: "at once are too many"},
		{data: strings.Repeat(record(`{`+name+`,"compress":"none"}`), agent.MaxBundle+1), code: errs.ParamInvalid, want: "a bundle cannot have 4097 files, only 4096"},
	} {
		s := newRemote(t, services(t)[agent.RoleBackup]).session(agent.RoleBackup)
		err := do(t.Context(), s, "both", "read-files", nil, []byte(c.data))
		if errs.CodeOf(err) != c.code || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.100q: [%03d] %v\nwant [%03d] %s", c.data, errs.CodeOf(err), err, c.code, c.want)
		}
	}
}
