// Package wal archives and fetches WAL on the host PostgreSQL runs on: what
// archive_command and restore_command call. It knows an archive only by what it asks
// of one, so the repository may be here or on another host.
package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// Cluster identifies a PostgreSQL cluster.
type Cluster struct {
	Version  postgres.Version
	SystemID uint64
}

// An Archive is where the WAL of one stanza is kept, in one repository.
type Archive interface {
	// Name is how the configuration calls the repository: "repo1".
	Name() string

	// Cluster gives the cluster the archive takes WAL of now.
	Cluster(ctx context.Context) (Cluster, error)

	// Put stores a file durably under its name. The same content again is success,
	// other content is ArchiveDuplicate.
	Put(ctx context.Context, f File) (Stored, error)

	// Find gives the copies the archive has of a file of a cluster, best first. Not
	// to have any is no error; not to know the cluster is ArchiveMismatch.
	Find(ctx context.Context, c Cluster, name string) ([]Copy, error)
}

// File is a WAL file to be stored.
type File struct {
	Name string
	Open func() (io.ReadCloser, error)

	// Of a segment or partial segment: the XXH3 with 128 bits, big endian, and what gives the SHA-1.
	Sum  [16]byte
	SHA1 func() ([20]byte, error)
	// Fixed says that the content is in memory, so that Open gives what these were made of.
	Fixed bool
}

// Stored says how a file came to be in the archive.
type Stored int

// The ways.
const (
	New      Stored = iota
	Present         // it was there before
	Repaired        // what was there was damaged and has been replaced
)

// Copy is a file found in an archive.
type Copy struct {
	ArchiveID string    // "15-1"
	Path      string    // below the stanza's archive, for messages
	SHA1      *[20]byte // what the archive says the content is; nil where it does not

	// Open gives the content. Its end is an error of code Checksum when the content is
	// not what SHA1 says or, unless size is negative, not of that size.
	Open func(ctx context.Context, size int64) (io.ReadCloser, error)
}

// Path gives the absolute path of a WAL file named by PostgreSQL, which may do so
// relative to its data directory, the directory it runs us in. command and option are
// for messages.
func Path(file, pgPath, option, command string) (string, error) {
	if filepath.IsAbs(file) {
		return filepath.Clean(file), nil
	}
	if pgPath == "" {
		err := errs.New(errs.OptionRequired, "option '%s' must be specified when relative wal paths are used", option)
		return "", errs.WithHint(errs.WithHint(err, "is %%f passed to %s instead of %%p?", command),
			"PostgreSQL may pass relative paths even with %%p depending on the environment.")
	}
	cwd, err := os.Getwd()
	if err != nil {
		return "", errs.WrapAs(errs.Format, err, "unable to get cwd")
	}
	if cwd != pgPath {
		here, err := os.Stat(cwd)
		if err != nil {
			return "", errs.WrapAs(errs.PathMissing, err, "unable to read the working directory")
		}
		there, err := os.Stat(pgPath)
		if err != nil {
			return "", errs.WrapAs(errs.PathMissing, err, "unable to chdir() to '%s'", pgPath)
		}
		if !os.SameFile(here, there) {
			err := errs.New(errs.OptionInvalidValue, "PostgreSQL working directory '%s' is not the same as option %s '%s'",
				cwd, option, pgPath)
			return "", errs.WithHint(err, "is the PostgreSQL data_directory configured the same as the %s option?", option)
		}
	}
	return filepath.Join(pgPath, file), nil
}

// control reads pg_control of the cluster in pgPath, which the server may be writing.
func control(ctx context.Context, pgPath string) (postgres.Control, error) {
	name := filepath.Join(pgPath, "global", "pg_control")
	_, c, err := postgres.ReadControl(ctx, name, func() ([]byte, error) {
		b, err := os.ReadFile(name)
		if err == nil {
			return b, nil
		}
		code := errs.FileOpen
		if errors.Is(err, os.ErrNotExist) {
			code = errs.FileMissing
		}
		return nil, errs.WithHint(errs.WrapAs(code, err, "unable to read pg_control"),
			"is '%s' the data directory of the cluster?", pgPath)
	})
	return c, err
}

// inRepo is the line an error of one repository makes in the message of them all.
func inRepo(a Archive, err error) string {
	return fmt.Sprintf("%s: [%s] %s", a.Name(), errs.CodeOf(err), err)
}

// noRepo is the error when no repository can be used.
func noRepo(lines []string) error {
	return errs.New(errs.RepoInvalid, "unable to find a valid repository:\n%s", strings.Join(lines, "\n"))
}
