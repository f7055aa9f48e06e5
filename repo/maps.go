package repo

import (
	"context"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// What is read of an object at once: a map and those that follow, of neighbours in a bundle, as long as there are no
// more bytes between than a request costs, and not more than is good for the memory.
const (
	mapGap     = 64 << 10
	mapsAtOnce = 4 << 20
)

// BlockMaps gives the maps of files, as BlockMap does. Files that follow one another in a bundle are read together.
func (r *Repo) BlockMaps(ctx context.Context, m *manifest.Manifest, files []manifest.File) ([][]byte, error) {
	all := make([][]byte, 0, len(files))
	for len(files) > len(all) {
		rest := files[len(all):]
		first := m.Stored(r.stanza, rest[0])
		n, end := 1, first.MapOffset+first.MapLength
		for ; n < len(rest); n++ {
			at := m.Stored(r.stanza, rest[n])
			if at.Kind != manifest.Block || at.Path != first.Path || at.MapOffset < end || at.MapOffset > end+mapGap ||
				at.MapOffset+at.MapLength > first.MapOffset+mapsAtOnce {
				break
			}
			end = at.MapOffset + at.MapLength
		}
		if n == 1 {
			text, err := r.BlockMap(ctx, m, rest[0])
			if err != nil {
				return nil, err
			}
			all = append(all, text)
			continue
		}
		part, err := r.readPart(ctx, first.Path, first.MapOffset, end-first.MapOffset)
		if err != nil {
			return nil, errs.Wrap(err, "unable to read block maps for %d files, '%s' to '%s', from '%s' at offset %d size %d",
				n, rest[0].Name, rest[n-1].Name, r.storage.Path(first.Path), first.MapOffset, end-first.MapOffset)
		}
		for _, f := range rest[:n] {
			at := m.Stored(r.stanza, f)
			text, err := openMap(m, part[at.MapOffset-first.MapOffset:][:at.MapLength])
			if err != nil {
				return nil, r.badMap(err, f, at)
			}
			all = append(all, text)
		}
	}
	return all, nil
}
