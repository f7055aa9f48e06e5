package backup

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// choosePrior loads the manifest of the backup that the new one will be based on, and takes
// over the options that have to be the same in all backups of a set. Where there is none, or none that can be
// based on, the backup becomes a full one.
func (r *run) choosePrior(ctx context.Context) error {
	if r.Type == format.Full {
		return nil
	}
	label, found := priorOf(r.list.Entries(), r.Type, r.cluster.ID)
	if !found {
		r.Log.Warn(fmt.Sprintf("no prior backup exists, %s backup has been changed to full", r.Type))
		r.Type = format.Full
		return nil
	}
	prior, err := r.Repo.Manifest(ctx, label)
	if err != nil {
		return err
	}
	if prior.Label != label {
		return errs.New(errs.Format, "the manifest of backup '%s' is that of '%s'", label, prior.Label)
	}
	if err := prior.ValidateChecksums(); err != nil {
		return errs.Wrap(err, "backup '%s'", label)
	}
	if beta, program := r.list.BetaBlocks(prior); beta != "" {
		// What went on with its maps could not be restored.
		r.Log.Warn(fmt.Sprintf("backup %s has files in blocks (option repo-block) as only pgBackRest %s stored them, %s backup has been changed to full",
			beta, program, r.Type))
		r.Type = format.Full
		return nil
	}
	r.Log.Info(fmt.Sprintf("last backup label = %s, version = %s", label, prior.Program))
	r.prior = prior
	return r.inheritOptions()
}

// priorOf gives the newest full backup, for an incremental one the newest of any type,
// that was made of the cluster of that id. The list is in the order of labels.
func priorOf(list []info.BackupEntry, t format.BackupType, cluster int) (format.Label, bool) {
	for _, e := range slices.Backward(list) {
		if e.ClusterID == cluster && (t == format.Incr || e.Type == format.Full) {
			return e.Label, true
		}
	}
	return "", false
}

// inheritOptions takes over what decides how files are stored, which a reference does not
// tell, and whether pages are checked, so that what is known of all files is of one kind.
func (r *run) inheritOptions() error {
	o := r.prior.Options
	codec, err := compress.ParseType(o.CompressType)
	if err != nil {
		return err
	}
	if codec != r.Compress {
		r.Log.Warn(fmt.Sprintf("%s backup cannot alter compress-type option to '%s', reset to value in %s", r.Type, r.Compress, r.prior.Label))
		r.Compress, r.CompressLevel = codec, codec.DefaultLevel()
		if o.CompressLevel != nil {
			low, high := codec.LevelRange()
			r.CompressLevel = min(max(*o.CompressLevel, low), high)
		}
	}
	if o.ChecksumPage == nil { // an old manifest
		r.checksumPage = false
		return nil
	}
	if was := *o.ChecksumPage; was != r.checksumPage {
		r.Log.Warn(fmt.Sprintf("%s backup cannot alter 'checksum-page' option to '%t', reset to '%t' from %s", r.Type, r.checksumPage, was, r.prior.Label))
		r.checksumPage = was
	}
	return nil
}

// followPrior puts into the manifest what all backups of a set share, and turns delta on
// where sizes and times cannot be trusted to tell what has changed since the prior backup. Summaries cannot either where times say that
// the cluster was set back.
func (r *run) followPrior() {
	if r.prior == nil {
		return
	}
	r.m.CipherPass, r.m.BundleRaw = r.prior.CipherPass, r.prior.BundleRaw

	// A server that has been restored or promoted may have files that are older than those of
	// the backup, and of the same size.
	began := ""
	if r.start != nil {
		began = r.start.Segment
	}
	switch ended := r.prior.ArchiveStop; {
	case began != "" && ended != "" && timeline(began) != timeline(ended):
		r.Log.Warn(fmt.Sprintf("a timeline switch has occurred since the %s backup, enabling delta checksum\n"+
			"HINT: this is normal after restoring from backup or promoting a standby.", r.prior.Label))
	case r.m.Options.Online != r.prior.Options.Online:
		r.Log.Warn(fmt.Sprintf("the online option has changed since the %s backup, enabling delta checksum", r.prior.Label))
	default:
		if *r.m.Options.Delta && !r.Summary {
			return
		}
		if r.anomaly = anomaly(r.m, r.prior); r.anomaly == "" || *r.m.Options.Delta {
			return
		}
		r.Log.Warn(r.anomaly + ", enabling delta checksum")
	}
	*r.m.Options.Delta = true
}

// timeline gives the part of a segment's name that tells its timeline.
func timeline(segment string) string { return segment[:min(8, len(segment))] }

// anomaly looks for a file whose time contradicts what the prior backup has recorded, and
// says what is wrong with the first; "" if there is none.
func anomaly(m, prior *manifest.Manifest) string {
	was := follow(prior)
	defer was.stop()
	for f := range m.Files.All() {
		old, found := was.find(f.Name)
		switch {
		case !found:
		case f.Timestamp < old.Timestamp:
			return fmt.Sprintf("file '%s' has timestamp earlier than prior backup (prior %d, current %d)",
				manifest.PGPath(f.Name), old.Timestamp, f.Timestamp)
		case f.Timestamp == old.Timestamp && f.OriginalSize != old.OriginalSize:
			return fmt.Sprintf("file '%s' has same timestamp (%d) as prior but different size (prior %d, current %d)",
				manifest.PGPath(f.Name), f.Timestamp, old.OriginalSize, f.OriginalSize)
		}
	}
	return ""
}

// follower finds files by names that only ascend, in one pass over a manifest.
type follower struct {
	next func() (manifest.File, bool)
	stop func()
	at   manifest.File
	more bool
}

// follow begins a pass over m, which stop ends. In nil nothing is found.
func follow(m *manifest.Manifest) *follower {
	if m == nil {
		return &follower{stop: func() {}}
	}
	f := &follower{}
	f.next, f.stop = iter.Pull(m.Files.All())
	f.at, f.more = f.next()
	return f
}

func (f *follower) find(name string) (manifest.File, bool) {
	for f.more && f.at.Name < name {
		f.at, f.more = f.next()
	}
	return f.at, f.more && f.at.Name == name
}

// likeness is what sizes and times tell of a file that a prior backup has too.
type likeness int

const (
	other likeness = iota // it has changed
	maybe                 // its content tells
	same                  // it has not
)

// compare says whether f is what the prior backup has as old. bundled says that the prior
// backup has bundles, and so no object for an empty file.
func compare(f, old manifest.File, delta, bundled bool) likeness {
	switch {
	case f.Size != old.Size, f.Size == 0 && bundled:
		return other
	case f.Size == 0, !delta && f.Timestamp == old.Timestamp:
		return same
	}
	return maybe
}

// unreplayed says that old, which prior holds, may be older than its time. pgBackRest takes the time from the primary, where
// the file may have been written after the start of the backup, and the content from a standby that had
// not replayed that. pgx records a time before the start.
func unreplayed(old manifest.File, prior *manifest.Manifest) bool {
	standby := prior.Options.BackupStandby
	return standby != nil && *standby && old.Size > 0 && old.Reference == "" && old.Timestamp >= prior.Start && postgres.GrowthReplayed(old.Name)
}

// refer makes f a file that the backup holds that holds old, which prior refers to or is.
func refer(f, old manifest.File, prior format.Label) manifest.File {
	f.Size, f.Checksum, f.RepoSize, f.RepoChecksum = old.Size, old.Checksum, old.RepoSize, old.RepoChecksum
	f.Bundle, f.BundleOffset = old.Bundle, old.BundleOffset
	f.BlockSize, f.BlockChecksumSize, f.BlockMapSize = old.BlockSize, old.BlockChecksumSize, old.BlockMapSize
	f.Pages, f.PageErrors = old.Pages, old.PageErrors
	if f.Reference = old.Reference; f.Reference == "" {
		f.Reference = prior
	}
	return f
}
