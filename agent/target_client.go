package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/pgx-backup/pgx/agent/pgdata"
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
	select {
	case <-t.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { t.free <- struct{}{} }()
	return do()
}

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
		return t.send(ctx, callInspect, func(w io.Writer) error { return writeLayout(w, layout, false) })
	})
}

// Begin makes the target ready for files.
func (t *TargetClient) Begin(ctx context.Context, layout pgdata.Layout, marker func(io.Writer) error) error {
	return t.alone(ctx, func() error {
		return t.send(ctx, callBegin, func(w io.Writer) error {
			if err := writeLayout(w, layout, true); err != nil {
				return err
			}
			return marker(w)
		})
	})
}

// send makes a call that is given what write writes.
func (t *TargetClient) send(ctx context.Context, name string, write func(io.Writer) error) error {
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
	err := t.s.Send(ctx, name, nil, r, nil)
	_ = r.Close() // the rest is not wanted
	<-written
	return err
}

// Match says that a file is there already.
func (t *TargetClient) Match(ctx context.Context, file pgdata.TargetFile, how pgdata.Compare) (bool, error) {
	var r matchFileResult
	err := t.call(ctx, callMatchFile, matchFileArgs{packFile(file), how.Times, packTime(how.Before)}, &r)
	return r.Matches, err
}

// Put writes a file durably.
func (t *TargetClient) Put(ctx context.Context, file pgdata.TargetFile, src io.Reader) error {
	if src == nil {
		return t.call(ctx, callPutFile, packFile(file), nil)
	}
	return t.alone(ctx, func() error { return t.s.Send(ctx, callPutFile, packFile(file), src, nil) })
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
