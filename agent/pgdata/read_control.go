package pgdata

import (
	"context"
	"io"

	"github.com/pgx-backup/pgx/internal/postgres"
)

// Control reads pg_control.
func (s *Source) Control(ctx context.Context) (postgres.Control, error) {
	_, c, err := s.readControl(ctx)
	return c, err
}

// readControl reads pg_control, which the server may be writing.
func (s *Source) readControl(ctx context.Context) ([]byte, postgres.Control, error) {
	path := s.path + "/global/pg_control"
	return postgres.ReadControl(ctx, path, func() ([]byte, error) {
		f, err := openFile(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(named{f}, postgres.ControlFileSize))
	})
}
