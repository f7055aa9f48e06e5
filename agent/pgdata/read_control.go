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
	return postgres.ReadControl(ctx, s.path+"/global/pg_control", func() ([]byte, error) {
		d := s.Files()
		defer d.Close()
		f, err := d.open(controlFile)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(named{ctx, f}, postgres.ControlFileSize))
	})
}
