package backup

import (
	"context"
	"encoding/hex"
	"fmt"
	"path"
	"strings"

	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/progress"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// path names a file of the cluster for messages.
func (r *run) path(name string) string { return path.Join(r.node.Path, manifest.PGPath(name)) }

func (r *run) detail(worker int, text string, args ...any) {
	r.Log.With(logging.Process(worker)).Log(context.Background(), logging.LevelDetail, fmt.Sprintf(text, args...))
}

// logCopied tells of a file that was copied; f is what was known of it before.
func (r *run) logCopied(f manifest.File, c copied, p progress.State) {
	size := logging.Size(c.Size)
	if c.Size != f.OriginalSize {
		size = logging.Size(f.OriginalSize) + "->" + size
	}
	sum := ""
	if c.Size != 0 {
		sum = " checksum " + hex.EncodeToString(c.SHA1[:])
	}
	r.detail(c.worker, "backup file %s (%s, %s)%s", r.path(f.Name), size, percent(p.BytesDone, p.Bytes), sum)
}

// percent gives a part of a whole with two decimals, rounded.
func percent(done, total int64) string {
	if done >= total {
		return "100.00%"
	}
	return fmt.Sprintf("%.2f%%", float64(done)/float64(total)*100)
}

// judgePages tells of pages with invalid checksums and gives what the manifest records of them.
func (r *run) judgePages(name string, size int64, p *pipeline.PageResult) (manifest.Pages, []manifest.PageRange) {
	switch {
	case !p.Aligned:
		r.Log.Warn(fmt.Sprintf("page misalignment in file %s: file size %d is not divisible by page size %d",
			r.path(name), size, r.control.PageSize))
		return manifest.PagesInvalid, nil
	case len(p.Errors) == 0:
		return manifest.PagesValid, nil
	}
	var ranges []manifest.PageRange
	var list []string
	several := len(p.Errors) > 1
	for _, e := range p.Errors {
		ranges = append(ranges, manifest.PageRange{First: e.First, Last: e.Last})
		if e.First == e.Last {
			list = append(list, fmt.Sprint(e.First))
			continue
		}
		several = true
		list = append(list, fmt.Sprintf("%d-%d", e.First, e.Last))
	}
	plural := ""
	if several {
		plural = "s"
	}
	r.Log.Warn(fmt.Sprintf("invalid page checksum%s found in file %s at page%s %s",
		plural, r.path(name), plural, strings.Join(list, ", ")))
	return manifest.PagesInvalid, ranges
}
