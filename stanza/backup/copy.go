package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/parallel"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// makeDirs makes all directories, so that also empty ones are there, and the links of
// tablespaces: a directory of a full backup without bundles, or one with hard links, can be copied away as a
// cluster. In others there are only the directories of what is stored on its own.
func (r *run) makeDirs(ctx context.Context) error {
	if (r.m.Type != format.Full || r.m.Bundle) && !r.linked() {
		return nil
	}
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

// linked says whether files of other backups get a name in this one.
func (r *run) linked() bool { return r.Hardlink && r.writer.CanLink() }

// fate is what became of a file.
type fate int

const (
	stored    fate = iota
	vanished       // removed by the database
	unchanged      // as in the prior backup
	resumed        // stored by an interrupted run, and as it was
)

// copied is what came of copying a file.
type copied struct {
	pipeline.Result // of a file that was stored
	fate
	bundle  uint32 // that it was stored in; 0: on its own, or it is empty and nowhere
	offset  int64
	damaged bool // what an interrupted run had stored was not what it should be
}

// outcome is what came of a job: of each of its files, in the same order.
type outcome struct {
	files  []copied
	worker int
}

// queue decides what has to be copied.
func (r *run) queue() error {
	var err error
	r.queues, err = newQueues(r.m, r.prior, r.Online, bundling{r.Bundle, r.BundleLimit, r.BundleSize}, r.changes)
	if err == nil && r.changes != nil {
		r.Log.Info(fmt.Sprintf("WAL summaries %s spare the reading of %d files", r.changes.of, r.queues.spared))
	}
	if r.prior != nil {
		// They may be large. The runtime lets garbage grow to the size of what it found in use the last time; that must not be
		// both manifests while all the files are copied.
		r.prior, r.changes = nil, nil
		runtime.GC()
	}
	if r.standby != nil {
		r.queues.part()
	}
	if err != nil || !r.Bundle || !r.Log.Enabled(context.Background(), logging.LevelDetail) {
		return err
	}
	for f := range r.m.Files.All() {
		if f.OriginalSize == 0 {
			r.detail(0, "store zero-length file %s", r.path(f.Name))
		}
	}
	return nil
}

func (r *run) workers() []int {
	workers := make([]int, max(1, r.ProcessMax))
	for i := range workers {
		workers[i] = i + 1
	}
	return workers
}

// copyFiles copies what is to be copied and records it in the manifest.
func (r *run) copyFiles(ctx context.Context) error {
	q := r.queues
	r.queues = queues{} // what is done can go
	p := progress.State{Files: q.files, Bytes: q.bytes}
	r.meter = progress.New(q.files, q.bytes, r.Progress)
	saveEvery, saved := max(r.SaveThreshold, q.bytes/100), int64(0)

	w := r.watch(ctx)
	err := parallel.RunLanes(w.ctx, r.lanes(q), r.copyJob, func(j job, o outcome) error {
		for i, f := range j.files {
			p.FilesDone++
			p.BytesDone += f.size
			if err := r.record(f, o.files[i], o.worker, p); err != nil {
				return err
			}
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
	if err := r.alive(ctx); err != nil {
		return err
	}
	return r.leaveStandby(ctx)
}

// copyJob copies the files of a job into the repository, unless they are there.
func (r *run) copyJob(ctx context.Context, worker int, j job) (outcome, error) {
	if j.bundle != 0 {
		files, err := r.copyBundle(ctx, j)
		return outcome{files, worker}, err
	}
	c, err := r.copyFile(ctx, j.files[0])
	return outcome{[]copied{c}, worker}, err
}

// read says how a file is read and stored, in that bundle if it is not 0.
func (r *run) read(f file, bundle uint32) pgdata.Read {
	read := pgdata.Read{
		Name: f.name, Limit: f.limit(), Compress: r.Compress, Level: r.CompressLevel, Cipher: cipher.NewPass(r.m.CipherPass),
		Raw: f.bundled && r.m.BundleRaw,
	}
	if f.pages {
		read.Pages = &pgdata.Pages{Size: r.control.PageSize, Segment: r.control.SegmentPages, Header: r.PageHeaderCheck}
	}
	if f.expected != (manifest.SHA1{}) {
		read.Expected = &pgdata.Expected{Size: f.size, SHA1: f.expected, Always: f.delta}
	}
	if f.blocks != nil {
		r.inBlocks(&read, f.blocks, bundle)
	}
	return read
}

// copyBundle copies files into one bundle. Of those that have vanished, have not changed or are empty by now it
// has nothing, and if that are all there is no bundle.
func (r *run) copyBundle(ctx context.Context, j job) ([]copied, error) {
	reads := make([]pgdata.Read, len(j.files))
	for i, f := range j.files {
		reads[i] = r.read(f, j.bundle)
	}
	if err := r.readPriors(ctx, j.files, reads); err != nil {
		return nil, err
	}
	src, err := r.nodeOf(j.files[0].name).Host.OpenBundle(ctx, reads)
	if err != nil {
		return nil, err
	}
	meter := &meteredBundle{Bundle: src, files: j.files, meter: r.meter}
	err = r.writer.PutBundle(ctx, j.bundle, meter)
	if err := errors.Join(err, src.Close()); err != nil {
		return nil, err
	}
	meter.tell()
	results := src.Results()
	if len(results) != len(j.files) {
		return nil, errs.New(errs.Assert, "of %d files %d came", len(j.files), len(results))
	}
	all := make([]copied, len(results))
	for i, res := range results {
		c := &all[i]
		switch res.Fate {
		case agent.Unchanged:
			c.fate = unchanged
			continue
		case agent.Vanished:
			if j.files[i].name == controlFile {
				return nil, errs.New(errs.FileMissing, "unable to open missing file '%s' for read", r.path(controlFile))
			}
			c.fate = vanished
			continue
		}
		if c.Result = res.Result; res.RepoSize > 0 {
			c.bundle, c.offset = j.bundle, res.Offset
		}
	}
	return all, nil
}

// meteredBundle counts the files of a bundle while it is drained.
type meteredBundle struct {
	agent.Bundle
	files []file // those that are not counted
	done  int    // those that are
	meter *progress.Meter
}

// tell counts the files that are done.
func (m *meteredBundle) tell() {
	for all := len(m.Results()); m.done < all; m.done++ {
		m.meter.File(m.files[0].size).Done()
		m.files = m.files[1:]
	}
}

func (m *meteredBundle) WriteTo(w io.Writer) (int64, error) {
	return m.Bundle.WriteTo(writeFunc(func(p []byte) (int, error) {
		m.tell()
		return w.Write(p)
	}))
}

type writeFunc func([]byte) (int, error)

func (w writeFunc) Write(p []byte) (int, error) { return w(p) }

// copyFile copies one file into the repository, unless it is there. One that has vanished was
// removed by the database, which the WAL tells of too; but never pg_control.
func (r *run) copyFile(ctx context.Context, j file) (c copied, err error) {
	meter := r.meter.File(j.size)
	defer meter.Done()

	read := r.read(j, 0)
	if err := r.readPriors(ctx, []file{j}, []pgdata.Read{read}); err != nil {
		return c, err
	}
	if j.resumed != nil && !j.delta { // by size and time it is the same
		if done, err := r.takeResumed(ctx, j, &c); done || err != nil {
			return c, err
		}
		read.Expected = nil
	}
	host := r.nodeOf(j.name).Host
	src, err := host.Open(ctx, read)
	if errors.Is(err, pgdata.ErrUnchanged) {
		if j.resumed == nil {
			c.fate = unchanged
			return c, nil
		}
		if done, err := r.takeResumed(ctx, j, &c); done || err != nil {
			return c, err
		}
		read.Expected = nil
		src, err = host.Open(ctx, read)
	}
	if errors.Is(err, fs.ErrNotExist) && j.name != controlFile {
		c = copied{fate: vanished}
		if j.resumed != nil {
			return c, r.writer.RemoveFile(ctx, j.name, r.ext(j))
		}
		return c, nil
	}
	if err != nil {
		return c, err
	}
	put := r.writer.PutFile
	switch {
	case c.damaged:
		put = r.writer.PutAgain
	case j.blocks != nil:
		put = r.writer.PutChanged
	}
	err = put(ctx, j.name, r.ext(j), metered{src, meter})
	if err = errors.Join(err, src.Close()); err != nil {
		return c, errs.Wrap(err, "copy '%s'", r.path(j.name))
	}
	kept, err := read.Kept(src.Result())
	if kept || err != nil {
		c.fate = unchanged
		return c, err
	}
	c.Result = src.Result()
	return c, nil
}

// ext is the extension of what is stored of a file on its own.
func (r *run) ext(j file) string {
	if j.blocks != nil {
		return format.BlockExt
	}
	return r.Compress.Ext()
}

// takeResumed takes what an interrupted run has stored of a file, if it is sound.
func (r *run) takeResumed(ctx context.Context, j file, c *copied) (bool, error) {
	sound, err := r.writer.Holds(ctx, j.name, r.ext(j), j.resumed.size, j.resumed.sum)
	switch {
	case err != nil:
	case sound:
		c.fate = resumed
	default:
		c.damaged = true
	}
	return sound, err
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
func (r *run) record(j file, c copied, worker int, p progress.State) error {
	if c.fate == vanished {
		r.detail(worker, "skip file removed by database %s", r.path(j.name))
		r.m.Files.Remove(j.name)
		return nil
	}
	f, found := r.m.Files.Find(j.name)
	if !found {
		return errs.New(errs.Assert, "file '%s' is not in the manifest", j.name)
	}
	r.logCopied(f, j, c, worker, p)
	f = r.dated(f)
	if c.fate == stored {
		r.fill(&f, c.Result)
		f.Bundle, f.BundleOffset = c.bundle, c.offset
		if c.MapSize > 0 {
			if j.blocks == nil {
				return errs.New(errs.Assert, "file '%s' came in blocks, which nobody asked for", j.name)
			}
			f.BlockSize, f.BlockChecksumSize, f.BlockMapSize = j.blocks.size, j.blocks.sum, c.MapSize
			f.RepoChecksum = c.RepoSHA1
		}
	}
	return r.m.Files.Set(f)
}

// fill records in f what was read and stored.
func (r *run) fill(f *manifest.File, res pipeline.Result) {
	f.Size, f.Checksum, f.RepoSize, f.RepoChecksum = res.Size, res.SHA1, res.RepoSize, manifest.SHA1{}
	if res.RepoSize > 0 && (r.Compress != compress.None || r.m.CipherPass != "") {
		f.RepoChecksum = res.RepoSHA1
	}
	// What the prior backup has does not count any more.
	f.Reference, f.PageErrors = "", nil
	f.Bundle, f.BundleOffset, f.BlockSize, f.BlockChecksumSize, f.BlockMapSize = 0, 0, 0, 0, 0
	if f.Pages != manifest.PagesUnchecked && res.Pages != nil {
		f.Pages, f.PageErrors = r.judgePages(f.Name, res.Size, res.Pages)
	}
}

// linkFiles gives what is in other backups a name in this one, where that was asked for.
func (r *run) linkFiles(ctx context.Context) error {
	link := r.linked()
	if !link && !r.Log.Enabled(ctx, logging.LevelDetail) {
		return nil
	}
	referred := func(yield func(manifest.File) bool) {
		for f := range r.m.Files.All() {
			if f.Reference != "" && !yield(f) {
				return
			}
		}
	}
	if !link {
		for f := range referred {
			r.detail(0, "reference %s to %s", f.Name, f.Reference)
		}
		return nil
	}
	return parallel.Run(ctx, r.workers(), referred, func(ctx context.Context, _ int, f manifest.File) (bool, error) {
		return r.writer.Link(ctx, r.m, f)
	}, func(f manifest.File, linked bool) error {
		verb := "reference"
		if linked {
			verb = "hardlink"
		}
		r.detail(0, "%s %s to %s", verb, f.Name, f.Reference)
		return nil
	})
}
