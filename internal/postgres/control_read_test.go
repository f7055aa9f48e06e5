package postgres_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/postgres"
)

// TestReadControl: half of a write is read again, what stays invalid is an error.
func TestReadControl(t *testing.T) {
	good := readFile(t, "control", "15-16.bin")
	torn := slices.Clone(good)
	torn[20] ^= 0xff
	torn2 := slices.Clone(good)
	torn2[40] ^= 0xff

	read := func(contents ...[]byte) (reads int, err error) {
		_, _, err = postgres.ReadControl(t.Context(), "/data/global/pg_control", func() ([]byte, error) {
			reads++
			return contents[min(reads, len(contents))-1], nil
		})
		return reads, err
	}
	if n, err := read(torn, torn2, good); err != nil || n != 3 {
		t.Errorf("%d reads, %v", n, err)
	}
	if n, err := read(torn); err == nil || n != 2 || !strings.HasPrefix(err.Error(), "'/data/global/pg_control'") {
		t.Errorf("invalid twice: %d reads, %v", n, err)
	}

	missing := errors.New("missing")
	if _, _, err := postgres.ReadControl(t.Context(), "", func() ([]byte, error) { return nil, missing }); err != missing {
		t.Errorf("error of reading became %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := postgres.ReadControl(ctx, "", func() ([]byte, error) { cancel(); return torn, nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
