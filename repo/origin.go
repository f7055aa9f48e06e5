package repo

import (
	"errors"
	"fmt"

	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// Origin is what an error of reading a file comes from.
type Origin struct {
	Label format.Label // the backup that holds it; without it the file cannot be restored
	text  string
}

// String names the object in the repository, and the part that counts if there is more in it.
func (o Origin) String() string { return o.text }

// Origin gives what cannot be read, or is not what it should be, where the reading of a file of the backup m
// ended with err.
func (r *Repo) Origin(m *manifest.Manifest, f manifest.File, err error) Origin {
	at := m.Stored(r.stanza, f)
	var super *block.Unreadable
	switch {
	case errors.As(err, &super) && super.Reference < len(m.References):
		label := m.References[super.Reference]
		return Origin{label, r.part(r.superBlock(label, f, super.Bundle), super.Offset, super.Length)}
	case at.Kind == manifest.Block && errs.CodeOf(err) == errs.Checksum:
		// Each super block could be read, and no one knows which is the wrong one.
		return Origin{at.Label.Full(), fmt.Sprintf("what backups %s to %s hold of '%s' in blocks", at.Label.Full(), at.Label, f.Name)}
	case at.Kind == manifest.Whole:
		return Origin{at.Label, "'" + r.storage.Path(at.Path) + "'"}
	}
	return Origin{at.Label, r.part(at.Path, at.Offset, at.Length)}
}

func (r *Repo) part(name string, offset, length int64) string {
	return fmt.Sprintf("'%s' at offset %d size %d", r.storage.Path(name), offset, length)
}
