package agent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol"
)

const (
	inBlocks  = "pg_data/base/1/2600"
	blockSize = 8192
)

func mapOf(content string) *block.Map {
	m := &block.Map{BlockSize: blockSize, SumSize: 6}
	for b := range slices.Chunk([]byte(content), blockSize) {
		m.Items = append(m.Items, block.Item{
			Offset: int64(len(m.Items) * blockSize), Size: int64(len(b)), SuperSize: int64(len(b)), Sum: block.Sum(b),
		})
	}
	return m
}

func blocksOf(content string, which []int) string {
	var b strings.Builder
	for _, n := range which {
		b.WriteString(content[n*blockSize : min((n+1)*blockSize, len(content))])
	}
	return b.String()
}

// newPatched is a small backup with a larger file, begun over a directory in which blocks of it are others.
func newPatched(t *testing.T, target agent.Target, s *saved) {
	t.Helper()
	content := bytes.Repeat([]byte("0123456789abcdef"), 40<<16)
	for i := range len(content) / blockSize {
		content[i*blockSize] = byte(i)
		content[i*blockSize+1] = byte(i >> 8)
	}
	s.content[inBlocks] = string(content)
	for _, n := range []int{0, 1, 2047, 2048, 5119} {
		content[n*blockSize+100]++
	}
	content = append(content, "grown"...)
	must(t, os.MkdirAll(s.dir+"/data/base/1", 0o700))
	must(t, os.WriteFile(s.dir+"/data/PG_VERSION", []byte("15\n"), 0o600))
	must(t, os.WriteFile(s.dir+"/data/base/1/2600", content, 0o640))
	s.layout.Clean = true
	must(t, target.Begin(t.Context(), s.layout, marker))
}

func TestTargetPatch(t *testing.T) {
	targets(t, func(t *testing.T, open func(string) agent.Target) {
		ctx := t.Context()
		s := newSaved(t)
		target := open(s.dir + "/data")
		newPatched(t, target, s)
		f, m := s.file(inBlocks), mapOf(s.content[inBlocks])

		p, err := target.Patch(ctx, s.file("pg_data/base/1/latin1-\xe4"), mapOf("x"))
		if err != nil || p != nil {
			t.Fatalf("the patch of a missing file is %v, %v", p, err)
		}
		p, err = target.Patch(ctx, f, m)
		must(t, err)
		var written [][]int
		for len(p.Needed()) > 0 {
			needed := slices.Clone(p.Needed())
			written = append(written, needed)
			must(t, p.Write(ctx, strings.NewReader(blocksOf(s.content[inBlocks], needed))))
		}
		if err := p.Write(ctx, strings.NewReader("")); errs.CodeOf(err) != errs.Assert {
			t.Errorf("a patch at its end takes more: %v", err)
		}
		// At its end it is in nobody's way.
		must(t, target.Put(ctx, s.file("pg_data/PG_VERSION"), strings.NewReader("15\n")))
		must(t, p.Close())
		must(t, p.Close())
		if len(written) != 3 || !slices.Equal(slices.Concat(written...), []int{0, 1, 2047, 2048, 5119}) {
			t.Errorf("written were %v", written)
		}
		p, err = target.Patch(ctx, f, m)
		must(t, err)
		if needed := p.Needed(); len(needed) > 0 {
			t.Errorf("%v are needed again", needed)
		}
		must(t, p.Close())
		must(t, target.Finish(ctx, true))
		must(t, target.Close())
		got, err := os.ReadFile(s.dir + "/data/base/1/2600")
		must(t, err)
		info, err := os.Stat(s.dir + "/data/base/1/2600")
		must(t, err)
		if string(got) != s.content[inBlocks] || info.ModTime() != f.ModTime || info.Mode() != f.Mode {
			t.Errorf("the file has time %s and mode %s", info.ModTime(), info.Mode())
		}
	})
}

// What ends a patch early leaves the target to others, and the file to another patch.
func TestTargetPatchGivenUp(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name string
		end  func(ctx context.Context, p pgdata.Patch, right string) error
		want func(error) bool
	}{
		{"closed", func(context.Context, pgdata.Patch, string) error { return nil }, func(err error) bool { return err == nil }},
		{"source fails", func(ctx context.Context, p pgdata.Patch, right string) error {
			return p.Write(ctx, io.MultiReader(strings.NewReader(right[:blockSize+1]), failing{boom}))
		}, func(err error) bool { return errors.Is(err, boom) }},
		{"wrong content", func(ctx context.Context, p pgdata.Patch, right string) error {
			return p.Write(ctx, strings.NewReader("x"+right[1:]))
		}, func(err error) bool { return errs.CodeOf(err) == errs.Checksum }},
		{"too much", func(ctx context.Context, p pgdata.Patch, right string) error {
			return p.Write(ctx, strings.NewReader(right+strings.Repeat("x", 4<<20)))
		}, func(err error) bool { return errs.CodeOf(err) == errs.Checksum }},
		{"too little", func(ctx context.Context, p pgdata.Patch, right string) error {
			return p.Write(ctx, strings.NewReader(right[:blockSize+1]))
		}, func(err error) bool { return errs.CodeOf(err) == errs.Checksum }},
		{"cancelled", func(ctx context.Context, p pgdata.Patch, right string) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return p.Write(ctx, strings.NewReader(right))
		}, isCancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			targets(t, func(t *testing.T, open func(string) agent.Target) {
				ctx := t.Context()
				s := newSaved(t)
				target := open(s.dir + "/data")
				newPatched(t, target, s)
				f, m := s.file(inBlocks), mapOf(s.content[inBlocks])
				p, err := target.Patch(ctx, f, m)
				must(t, err)
				if err := c.end(ctx, p, blocksOf(s.content[inBlocks], p.Needed())); !c.want(err) {
					t.Errorf("error %v", err)
				}
				must(t, p.Close())
				if there, err := matches(ctx, target, f, pgdata.Compare{Times: true, Before: time.Now()}); err != nil || there {
					t.Errorf("half a patch counts: %v, %v", there, err)
				}
				p, err = target.Patch(ctx, f, m)
				must(t, err)
				for len(p.Needed()) > 0 {
					must(t, p.Write(ctx, strings.NewReader(blocksOf(s.content[inBlocks], p.Needed()))))
				}
				must(t, p.Close())
				if there, err := matches(ctx, target, f, pgdata.Compare{}); err != nil || !there {
					t.Errorf("the file does not match: %v, %v", there, err)
				}
			})
		})
	}
}

// A client cannot go on with what it has not begun, and what is no map is refused.
func TestTargetPatchService(t *testing.T) {
	s := newSaved(t)
	r := newRemote(t, func() protocol.Service { return agent.TargetService(newTarget(s.dir + "/data")) })
	session := r.session(agent.RoleRestoreTarget)
	target := agent.NewTargetClient(session)
	ctx := t.Context()
	next := func(content string) error {
		return session.Send(ctx, "patch-next", nil, strings.NewReader(content), nil)
	}
	wantCode(t, next("x"), errs.Protocol)
	newPatched(t, target, s)
	wantCode(t, next("x"), errs.Protocol)

	f, m := s.file(inBlocks), mapOf(s.content[inBlocks])
	p, err := target.Patch(ctx, f, m)
	must(t, err)
	must(t, p.Close())
	if _, err := matches(ctx, target, f, pgdata.Compare{}); err != nil {
		t.Error(err)
	}
	wantCode(t, next(blocksOf(s.content[inBlocks], p.Needed())), errs.Protocol) // Match has ended it

	m.Items = m.Items[1:]
	_, err = target.Patch(ctx, f, m)
	wantCode(t, err, errs.Format)
	for _, args := range []map[string]any{
		{"block_size": 8191, "sum_size": 6}, {"block_size": 8192, "sum_size": 0}, {"block_size": 8192, "sum_size": 6}, {"block_size": 1 << 50, "sum_size": 6},
	} {
		args["file"] = map[string]any{"name": inBlocks, "mode": 384, "size": 5, "mtime": map[string]any{"s": 1}, "sha1": make([]byte, 20)}
		wantCode(t, session.Send(ctx, "patch-file", args, strings.NewReader("no map"), nil), errs.Format)
	}
}
