package lock

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pgx-backup/pgx/internal/durable"
	"github.com/pgx-backup/pgx/internal/errs"
)

// stopName gives the name of the stop file of a stanza, or with "" that of all.
func stopName(stanza string) (string, error) {
	if stanza == "" {
		return "all.stop", nil
	}
	return stanza + ".stop", checkStanza(stanza)
}

// Stopped gives the error of a command that must not run because of a stop file, for
// the stanza (which may be "") or for all.
func (d Dir) Stopped(stanza string) error {
	for _, s := range []string{stanza, ""} {
		there, err := d.StopExists(s)
		switch {
		case err != nil:
			return err
		case there && s != "":
			return errs.New(errs.Stop, "stop file exists for stanza %s", s)
		case there:
			return errs.New(errs.Stop, "stop file exists for all stanzas")
		}
	}
	return nil
}

// StopExists says whether there is a stop file for this stanza, or with "" for all.
func (d Dir) StopExists(stanza string) (bool, error) {
	name, err := stopName(stanza)
	if err != nil {
		return false, err
	}
	path := filepath.Join(d.Path, name)
	_, err = os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		err = durable.Wrap(errs.FileOpen, err, "unable to get info for path/file '%s'", path)
		if errors.Is(err, fs.ErrPermission) {
			err = errs.WithHint(err, "does '%s' have permissions on the directory, which option lock-path names?", whoAmI())
		}
	}
	return err == nil, err
}

// Stop makes the stop file of a stanza, or with "" of all. It says whether it was
// not there before.
func (d Dir) Stop(ctx context.Context, stanza string) (made bool, err error) {
	name, err := stopName(stanza)
	if err != nil {
		return false, err
	}
	if err := durable.MkdirPath(d.Path, stopMode); err != nil {
		return false, err
	}
	root, err := os.OpenRoot(d.Path)
	if err != nil {
		return false, durable.Wrap(errs.PathOpen, err, "unable to open path '%s'", d.Path)
	}
	defer func() { _ = root.Close() }() // only a handle
	f, err := durable.Create(root, name, fileMode)
	if err == nil {
		err = f.CommitNew(ctx)
	}
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// Start removes the stop file of a stanza, or with "" of all. It says whether there
// was one.
func (d Dir) Start(stanza string) (removed bool, err error) {
	name, err := stopName(stanza)
	if err != nil {
		return false, err
	}
	there, err := d.StopExists(stanza)
	if err != nil || !there {
		return false, err
	}
	root, err := os.OpenRoot(d.Path)
	if err != nil {
		return false, durable.Wrap(errs.PathOpen, err, "unable to open path '%s'", d.Path)
	}
	defer func() { _ = root.Close() }() // only a handle
	err = durable.Remove(root, name)
	return err == nil, err
}
