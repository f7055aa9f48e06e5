package backup

import (
	"io"

	"context"
	"errors"
	"io/fs"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/parallel"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// makeDirs makes all directories, so that also empty ones are there, and the links of
// tablespaces: a directory of a full backup can be copied away as a cluster.
func (r *run) makeDirs(ctx context.Context) error {
	for _, p := range r.m.Paths.All() {
		if err := r.writer.MakeDir(ctx, p.Name); err != nil {
			return err
		}
	}
	for _, t := range r.m.Targets.All() {
		if t.TablespaceID == 0 {
			continue
		}
		if err := r.writer.Symlink(ctx, "../../"+t.Name, format.PGData+"/"+t.Name); err != nil {
			return err
		}
	}
	return nil
}

// copied is what became of a file.
type copied struct {
	pipeline.Result
	vanished bool
	worker   int
}

// copyFiles copies all files of the manifest and records in it what was copied.
func (r *run) copyFiles(ctx context.Context) error {
	q, err := newQueues(r.m, r.Online)
	if err != nil {
		return err
	}
	workers := make([]int, max(1, r.ProcessMax))
	for i := range workers {
		workers[i] = i + 1
	}
	p := progress.State{Files: q.files, Bytes: q.bytes}
	r.meter = progress.New(q.files, q.bytes, r.Progress)
	saveEvery, saved := max(r.SaveThreshold, q.bytes/100), int64(0)

	w := r.watch(ctx)
	err = parallel.Run(w.ctx, workers, q.jobs(), r.copyFile, func(j job, c copied) error {
		p.FilesDone++
		p.BytesDone += j.size
		if err := r.record(j, c, p); err != nil {
			return err
		}
		if p.BytesDone-saved < saveEvery {
			return nil
		}
		saved = p.BytesDone
		return r.savePartial(ctx)
	})
	lost := w.stop(err != nil)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case lost != nil: // the copying ended because of it, if it did
		return lost
	case err != nil || r.live == nil:
		return err
	}
	return r.live.Alive(ctx)
}

// copyFile copies one file into the repository. One that has vanished was removed by the
// database, which the WAL tells of too; but never pg_control.
func (r *run) copyFile(ctx context.Context, worker int, j job) (copied, error) {
	read := pgdata.Read{Name: j.name, Limit: j.limit(), Compress: r.Compress, Level: r.CompressLevel}
	if j.pages {
		read.Pages = &pgdata.Pages{Size: r.control.PageSize, Segment: r.control.SegmentPages, Header: r.PageHeaderCheck}
	}
	meter := r.meter.File(j.size)
	defer meter.Done()
	src, err := r.node.Host.Open(ctx, read)
	if errors.Is(err, fs.ErrNotExist) && j.name != controlFile {
		return copied{vanished: true, worker: worker}, nil
	}
	if err != nil {
		return copied{}, err
	}
	err = r.writer.PutFile(ctx, j.name, r.Compress.Ext(), metered{src, meter})
	if err = errors.Join(err, src.Close()); err != nil {
		return copied{}, errs.Wrap(err, "copy '%s'", r.path(j.name))
	}
	return copied{Result: src.Result(), worker: worker}, nil
}

// metered counts the bytes of a file while it is drained.
type metered struct {
	agent.Source
	meter *progress.File
}

func (m metered) WriteTo(w io.Writer) (int64, error) {
	return m.Source.WriteTo(m.meter.Writer(w, func() int64 { return m.Result().Size }))
}

// record puts what was copied into the manifest.
func (r *run) record(j job, c copied, p progress.State) error {
	if c.vanished {
		r.detail(c.worker, "skip file removed by database %s", r.path(j.name))
		r.m.Files.Remove(j.name)
		return nil
	}
	f, found := r.m.Files.Find(j.name)
	if !found {
		return errs.New(errs.Assert, "file '%s' is not in the manifest", j.name)
	}
	r.logCopied(f, c, p)
	r.fill(&f, c.Result)
	return r.m.Files.Set(f)
}

// fill records in f what was read and stored.
func (r *run) fill(f *manifest.File, res pipeline.Result) {
	f.Size, f.Checksum, f.RepoSize = res.Size, res.SHA1, res.RepoSize
	if r.Compress != compress.None {
		f.RepoChecksum = res.RepoSHA1
	}
	if f.Pages != manifest.PagesUnchecked && res.Pages != nil {
		f.Pages, f.PageErrors = r.judgePages(f.Name, res.Size, res.Pages)
	}
}
