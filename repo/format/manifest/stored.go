package manifest

import "github.com/pgx-backup/pgx/repo/format"

// Kind says how the bytes of a file are stored.
type Kind int

// How the bytes of a file can be stored.
const (
	Nothing Kind = iota // an empty file of a backup with bundles: there are no bytes
	Whole               // an object of its own
	Bundled             // a part of a bundle
	Block               // super blocks and a block map, on their own or in a bundle
)

// Stored says where the bytes of a file are.
type Stored struct {
	Kind           Kind
	Label          format.Label // the backup that holds them
	Path           string       // in the repository
	Offset, Length int64        // of all that is stored; the offset is 0 outside bundles

	// Ext is the extension of the compression, "" for none. With Raw both compression
	// and encryption have the raw framing; super blocks always do.
	Ext string
	Raw bool

	// MapOffset and MapLength give where the block map is, in the same object.
	MapOffset, MapLength int64
}

// Stored gives where the bytes of a file are in the repository of a stanza.
func (m *Manifest) Stored(stanza string, f File) Stored {
	s := Stored{Kind: Whole, Label: m.Label, Offset: f.BundleOffset, Length: f.RepoSize, Ext: m.Options.CompressExt()}
	if f.Reference != "" {
		s.Label = f.Reference
	}
	switch {
	case f.Size == 0 && m.Bundle:
		return Stored{Kind: Nothing, Label: s.Label}
	case f.Bundle != 0:
		s.Kind, s.Raw = Bundled, m.BundleRaw
		s.Path = format.BundlePath(stanza, s.Label, f.Bundle)
	case f.BlockMapSize > 0:
		s.Path = format.FilePath(stanza, s.Label, f.Name, format.BlockExt)
	default:
		s.Path = format.FilePath(stanza, s.Label, f.Name, s.Ext)
	}
	if f.BlockMapSize > 0 {
		s.Kind, s.Raw = Block, true
		s.MapOffset, s.MapLength = s.Offset+s.Length-f.BlockMapSize, f.BlockMapSize
	}
	return s
}

// Sums are what backup.info tells of the files of a backup. A delta is what the backup itself
// holds, leaving out what it refers to in others. Sizes are bytes.
type Sums struct {
	Size, SizeDelta         int64
	RepoSize, RepoSizeDelta int64
	MapSize, MapSizeDelta   int64 // of block maps
	PageErrors              bool  // a file has invalid pages
}

// Sums adds up the files.
func (m *Manifest) Sums() Sums {
	var s Sums
	for i := range m.Files.records.n {
		r := m.Files.records.at(i)
		if r.state&removed != 0 {
			continue
		}
		repo := r.repoSize
		if repo == 0 {
			repo = r.size
		}
		s.Size += r.size
		s.RepoSize += repo
		s.MapSize += r.mapSize
		if r.reference == 0 {
			s.SizeDelta += r.size
			s.RepoSizeDelta += repo
			s.MapSizeDelta += r.mapSize
		}
		s.PageErrors = s.PageErrors || Pages(r.state&pagesMask) == PagesInvalid
	}
	return s
}
