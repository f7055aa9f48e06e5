package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// stopBackup asks PostgreSQL to end the backup, stores the files it gives and completes
// the manifest.
func (r *run) stopBackup(ctx context.Context) error {
	r.m.Cluster = r.cluster
	if r.live == nil {
		r.m.Stop = r.Now().Unix()
		return nil
	}
	r.Log.Info("execute backup stop and wait for all WAL segments to archive")
	var err error
	if r.stop, err = r.live.StopBackup(ctx); err != nil {
		return err
	}
	r.disconnect(ctx)
	r.Log.Info(fmt.Sprintf("backup stop archive = %s, lsn = %s", r.stop.Segment, r.stop.LSN))
	r.m.Stop = r.stop.Time.Unix()
	r.m.ArchiveStart, r.m.ArchiveStop = r.start.Segment, r.stop.Segment
	r.m.LSNStart, r.m.LSNStop = r.start.LSN.String(), r.stop.LSN.String()

	for _, f := range []struct{ name, content string }{
		{"backup_label", r.stop.BackupLabel}, {"tablespace_map", r.stop.TablespaceMap},
	} {
		if f.content == "" {
			continue
		}
		if err := r.putOwn(ctx, f.name, strings.NewReader(f.content)); err != nil {
			return err
		}
		r.detail(0, "wrote '%s' file returned from backup stop function", f.name)
	}
	return nil
}

// putOwn stores a file that is not read from the data directory, durably, and adds it to
// the manifest. It belongs to whom the data directory belongs to.
func (r *run) putOwn(ctx context.Context, name string, content io.Reader) error {
	name = format.PGData + "/" + name
	src, err := pipeline.NewStore(content, pipeline.StoreSpec{
		Compress: r.Compress, Level: r.CompressLevel, Cipher: cipher.NewPass(r.m.CipherPass), Limit: -1,
	})
	if err != nil {
		return err
	}
	err = r.writer.PutDurable(ctx, name, r.Compress.Ext(), src)
	if err := errors.Join(err, src.Close()); err != nil {
		return errs.Wrap(err, "store '%s'", name)
	}
	base := r.m.Paths.Find(format.PGData)
	f := manifest.File{Name: name, Attributes: base.Attributes, Timestamp: r.m.Stop}
	f.Mode &= 0o644
	r.fill(&f, src.Result())
	f.OriginalSize = f.Size
	r.m.Files.Remove(name) // an older one that was lying there
	return r.m.Files.Add(f)
}

// maxSegments is how much WAL a backup can need. It bounds what is believed of another host.
const maxSegments = 1 << 20

// collectWAL waits until all WAL that the backup needs is in the archive, without which
// it is worth nothing, and copies it into the backup if that was asked for.
func (r *run) collectWAL(ctx context.Context) error {
	if r.start == nil || !r.Archiving.Check {
		return nil
	}
	// The stop is where the last record ends: the byte before is the last one needed.
	// When that ends a segment, the next one may not be archived for hours.
	if r.stop.LSN <= r.start.LSN || (r.stop.LSN-r.start.LSN)/postgres.LSN(r.control.WALSegmentSize) > maxSegments {
		return errs.New(errs.Format, "the PostgreSQL host says that the backup began at %s and ended at %s, which cannot be", r.start.LSN, r.stop.LSN)
	}
	segments := postgres.SegmentRange(r.control.Timeline, r.start.LSN, r.stop.LSN-1, r.control.WALSegmentSize)
	r.Log.Info(fmt.Sprintf("check archive for segment(s) %s:%s", segments[0], segments[len(segments)-1]))
	if err := r.savePartial(ctx); err != nil {
		return err
	}
	for _, s := range segments {
		f, err := r.Archive.AwaitWAL(ctx, s, r.ArchiveTimeout)
		if err != nil {
			return err
		}
		if !r.ArchiveCopy {
			continue
		}
		r.detail(0, "copy segment %s to backup", s)
		in, err := r.Archive.OpenWAL(ctx, f, r.control.WALSegmentSize)
		if err != nil {
			return err
		}
		if err := errors.Join(r.putOwn(ctx, "pg_wal/"+s, in), in.Close()); err != nil {
			return err
		}
	}
	return nil
}
