package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"slices"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol"
)

// TargetClient is a Target seen from afar. The restore is under way in one session,
// that does one thing at a time: of several goroutines the others wait.
type TargetClient struct {
	s    *protocol.Session
	free chan struct{} // holds a token while no call is under way
}

var _ Target = (*TargetClient)(nil)

// NewTargetClient makes a TargetClient of a session in RoleRestoreTarget, which is its own
// from now on.
func NewTargetClient(s *protocol.Session) *TargetClient {
	t := &TargetClient{s: s, free: make(chan struct{}, 1)}
	t.free <- struct{}{}
	return t
}

// alone runs do when no other call is under way.
func (t *TargetClient) alone(ctx context.Context, do func() error) error {
	if err := t.take(ctx); err != nil {
		return err
	}
	defer t.leave()
	return do()
}

// take waits until no other call is under way, and none begins before leave.
func (t *TargetClient) take(ctx context.Context) error {
	select {
	case <-t.free:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *TargetClient) leave() { t.free <- struct{}{} }

func (t *TargetClient) call(ctx context.Context, name string, args, result any) error {
	return t.alone(ctx, func() error { return t.s.Call(ctx, name, args, result) })
}

// Check refuses a target whose server runs.
func (t *TargetClient) Check(ctx context.Context) (recognised bool, err error) {
	var r checkResult
	err = t.call(ctx, callCheck, nil, &r)
	return r.Recognised, err
}

// Inspect refuses a layout that Begin would refuse.
func (t *TargetClient) Inspect(ctx context.Context, layout pgdata.Layout) error {
	return t.alone(ctx, func() error {
		return t.send(ctx, callInspect, nil, nil, func(w io.Writer) error { return writeLayout(w, layout, false) })
	})
}

// Begin makes the target ready for files.
func (t *TargetClient) Begin(ctx context.Context, layout pgdata.Layout, marker func(io.Writer) error) error {
	return t.alone(ctx, func() error {
		return t.send(ctx, callBegin, nil, nil, func(w io.Writer) error {
			if err := writeLayout(w, layout, true); err != nil {
				return err
			}
			return marker(w)
		})
	})
}

// send makes a call that is given what write writes.
func (t *TargetClient) send(ctx context.Context, name string, args, result any, write func(io.Writer) error) error {
	r, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		out := bufio.NewWriterSize(w, 256<<10)
		err := write(out)
		if err == nil {
			err = out.Flush()
		}
		w.CloseWithError(err)
	}()
	err := t.s.Send(ctx, name, args, r, result)
	_ = r.Close() // the rest is not wanted
	<-written
	return err
}

// Match says of each file whether it is there already.
func (t *TargetClient) Match(ctx context.Context, files []pgdata.TargetFile, how pgdata.Compare) ([]bool, error) {
	var all []bool
	for some := range slices.Chunk(files, maxMatched) {
		var r matchFilesResult
		err := t.alone(ctx, func() error {
			return t.send(ctx, callMatchFiles, matchFilesArgs{how.Times, packTime(how.Before)}, &r, func(w io.Writer) error {
				out := newList(w)
				for _, f := range some {
					if err := out.add(packFile(f)); err != nil {
						return err
					}
				}
				return nil
			})
		})
		if err == nil && len(r.Matches) != len(some) {
			err = errs.New(errs.Protocol, "'%s' of %d files was answered for %d", callMatchFiles, len(some), len(r.Matches))
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r.Matches...)
	}
	return all, nil
}

// PutAll writes files one after the other.
func (t *TargetClient) PutAll(ctx context.Context, files iter.Seq2[pgdata.TargetFile, io.Reader]) error {
	return t.alone(ctx, func() error {
		var at string
		err := t.send(ctx, callPutFiles, nil, nil, func(w io.Writer) error {
			out := newList(w)
			for f, src := range files {
				at = f.Name
				if err := out.add(packFile(f)); err != nil {
					return err
				}
				if src == nil {
					continue
				}
				if err := copyFile(w, f, src); err != nil {
					return err
				}
			}
			return nil
		})
		return t.lost(at, err)
	})
}

// lost names the file at which the session was lost. Other errors name theirs.
func (t *TargetClient) lost(name string, err error) error {
	if err == nil || name == "" || t.s.Err() == nil {
		return err
	}
	return errs.Wrap(err, "error restoring '%s'", name)
}

// copyFile copies the content of a file, which must have its size: nothing else says where it ends.
func copyFile(w io.Writer, f pgdata.TargetFile, src io.Reader) error {
	n, err := io.CopyN(w, src, f.Size)
	if err == io.EOF {
		return errs.New(errs.Checksum, "error restoring '%s': actual size %d does not match expected size %d", f.Name, n, f.Size)
	}
	if err != nil {
		return err
	}
	var more [1]byte
	switch n, err := io.ReadFull(src, more[:]); { // src vouches for the content with its end
	case n > 0:
		return errs.New(errs.Checksum, "error restoring '%s': content is longer than the size in the manifest", f.Name)
	case err != io.EOF:
		return err
	}
	return nil
}

// Patch begins to change a file, see Target.
func (t *TargetClient) Patch(ctx context.Context, file pgdata.TargetFile, m *block.Map) (pgdata.Patch, error) {
	if err := t.take(ctx); err != nil {
		return nil, err
	}
	p := &patchClient{target: t, blocks: len(m.Items)}
	args := patchFileArgs{packFile(file), m.BlockSize, m.SumSize}
	err := p.call(ctx, callPatchFile, args, bytes.NewReader(m.Append(nil)))
	if err != nil || !p.found {
		return nil, err
	}
	return p, nil
}

// patchClient is a Patch of a file on another host. It has the session until it is at its end.
type patchClient struct {
	target *TargetClient // nil when the session is another's again
	blocks int           // of the file
	next   int           // the first block that may still be needed
	found  bool
	needed []int
}

// call makes a call that goes on with the patch. When nothing can follow it the session is left.
func (p *patchClient) call(ctx context.Context, name string, args any, src io.Reader) error {
	var r patchResult
	err := p.target.s.Send(ctx, name, args, src, &r)
	for _, n := range r.Needed {
		if err == nil && (n < p.next || n >= p.blocks) {
			err = errs.New(errs.Protocol, "'%s' was answered with block %d of %d out of order", name, n, p.blocks)
		}
		p.next = n + 1
	}
	p.found, p.needed = r.Found, r.Needed
	if err != nil || len(p.needed) == 0 {
		p.needed = nil
		return errors.Join(err, p.Close())
	}
	return nil
}

func (p *patchClient) Needed() []int { return p.needed }

func (p *patchClient) Write(ctx context.Context, src io.Reader) error {
	if p.target == nil {
		return errs.New(errs.Assert, "a patch is given what it does not need")
	}
	return p.call(ctx, callPatchNext, nil, src)
}

// Close leaves the session. The other end gives the patch up with the next call.
func (p *patchClient) Close() error {
	if p.target != nil {
		p.target.leave()
		p.target = nil
	}
	return nil
}

// Put writes a file, see Target.
func (t *TargetClient) Put(ctx context.Context, file pgdata.TargetFile, src io.Reader) error {
	return t.alone(ctx, func() error {
		if src == nil {
			return t.lost(file.Name, t.s.Call(ctx, callPutFile, packFile(file), nil))
		}
		return t.lost(file.Name, t.s.Send(ctx, callPutFile, packFile(file), src, nil))
	})
}

// Read gives the content of a small file of the data directory.
func (t *TargetClient) Read(ctx context.Context, name string) (content []byte, err error) {
	err = t.alone(ctx, func() error {
		in, err := t.s.Receive(ctx, callReadSmall, packSmall(name))
		if err != nil {
			return err
		}
		content, err = io.ReadAll(io.LimitReader(in, maxSmall+1))
		if err == nil && len(content) > maxSmall {
			err = errs.New(errs.FileRead, "unable to read '%s': it is larger than 64MB", name)
		}
		return errors.Join(err, in.Close())
	})
	return content, err
}

// Write puts a small file into the data directory.
func (t *TargetClient) Write(ctx context.Context, name string, content []byte) error {
	return t.alone(ctx, func() error { return t.s.Send(ctx, callWriteSmall, packSmall(name), bytes.NewReader(content), nil) })
}

// Finish makes the cluster whole.
func (t *TargetClient) Finish(ctx context.Context, online bool) error {
	return t.call(ctx, callFinish, finishArgs{online}, nil)
}

// Close ends the session, and with it what is under way.
func (t *TargetClient) Close() error { return t.s.Close() }
