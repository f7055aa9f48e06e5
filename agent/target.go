package agent

import (
	"context"
	"io"

	"github.com/pgx-backup/pgx/agent/pgdata"
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
	// Match says that a file is there already. It and Put run from many goroutines.
	Match(ctx context.Context, file pgdata.TargetFile, how pgdata.Compare) (bool, error)
	// Put writes a file durably; src verifies the content it gives.
	Put(ctx context.Context, file pgdata.TargetFile, src io.Reader) error
	// Read and Write handle small files of the data directory, named relative to it.
	Read(ctx context.Context, name string) ([]byte, error)
	Write(ctx context.Context, name string, content []byte) error
	// Finish makes the cluster whole; nothing may be written after it.
	Finish(ctx context.Context, online bool) error
	Close() error
}

var _ Target = (*pgdata.Target)(nil)
