package postgres

import (
	"bytes"
	"context"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
)

// controlWait lets a write of pg_control come to its end.
const controlWait = 50 * time.Millisecond

// ReadControl calls read, which gives the content of the pg_control at path, until that is
// valid: on file systems where a read can meet half of a write it may not be at first.
// What is the same and invalid twice is an error, which names path; an error of read comes
// back as it is.
func ReadControl(ctx context.Context, path string, read func() ([]byte, error)) ([]byte, Control, error) {
	var last []byte
	for {
		b, err := read()
		if err != nil {
			return nil, Control{}, err
		}
		c, err := ParseControl(b)
		if err == nil {
			return b, c, nil
		}
		if last != nil && bytes.Equal(b, last) {
			return nil, Control{}, errs.Wrap(err, "'%s'", path)
		}
		last = b
		t := time.NewTimer(controlWait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, Control{}, ctx.Err()
		case <-t.C:
		}
	}
}
