package agent

import (
	"context"
	"io"
	"iter"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/block"
)

// Target is what a restore needs of the host it writes to. pgdata.Target is one, and
// says in what order the methods are called and what each promises.
type Target interface {
	// Check refuses a target whose server runs; recognised says that it is a data
	// directory, whole or left by an interrupted restore.
	Check(ctx context.Context) (recognised bool, err error)
	// Inspect refuses, with nothing changed, a layout that Begin would refuse.
	Inspect(ctx context.Context, layout pgdata.Layout) error
	// Begin makes the target ready for files. Until Finish it cannot be started.
	Begin(ctx context.Context, layout pgdata.Layout, marker func(io.Writer) error) error
	// Match says of each file whether it is there already. It, Patch, Put and PutAll run from many goroutines.
	Match(ctx context.Context, files []pgdata.TargetFile, how pgdata.Compare) ([]bool, error)
	// Patch begins to change the blocks of a file that differ from what m says. It is nil when there
	// is nothing to begin with. Of a target on another host every other method waits until the patch is at
	// its end or closed: the goroutine that has it must not call one.
	Patch(ctx context.Context, file pgdata.TargetFile, m *block.Map) (pgdata.Patch, error)
	// Put writes a file; src verifies the content it gives. What was put is durable once Finish has
	// returned, and an error may be about a file put before.
	Put(ctx context.Context, file pgdata.TargetFile, src io.Reader) error
	// PutAll is Put of one file after the other, which on another host wait for each other no longer than here. Each src is
	// read before the next is asked for, and is nil as that of Put.
	PutAll(ctx context.Context, files iter.Seq2[pgdata.TargetFile, io.Reader]) error
	// Read and Write handle small files of the data directory, named relative to it.
	Read(ctx context.Context, name string) ([]byte, error)
	Write(ctx context.Context, name string, content []byte) error
	// Finish makes the cluster whole; nothing may be written after it.
	Finish(ctx context.Context, online bool) error
	Close() error
}

var _ Target = (*pgdata.Target)(nil)
