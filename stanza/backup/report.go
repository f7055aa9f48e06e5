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
func (r *run) path(name string) string {
	node := r.nodeOf(name)
	shown := path.Join(node.Path, manifest.PGPath(name))
	if node.Name != "" {
		return node.Name + ":" + shown
	}
	return shown
}

func (r *run) detail(worker int, text string, args ...any) {
	if r.Log.Enabled(context.Background(), logging.LevelDetail) { // there may be a million files
		r.Log.With(logging.Process(worker)).Log(context.Background(), logging.LevelDetail, fmt.Sprintf(text, args...))
	}
}

// logCopied tells of a file that was copied or did not have to be; f is what was known of it
// before.
func (r *run) logCopied(f manifest.File, j file, c copied, worker int, p progress.State) {
	verb, now, content := "backup file", c.Size, c.SHA1
	switch c.fate {
	case unchanged:
		verb, now, content = "match file from prior backup", f.Size, f.Checksum
	case resumed:
		verb, now, content = "checksum resumed file", f.Size, f.Checksum
	default:
		if j.bundled && c.bundle == 0 {
			verb = "store truncated file"
		}
	}
	where := ""
	if c.bundle != 0 {
		where = fmt.Sprintf("bundle %d/%d, ", c.bundle, c.offset)
	}
	size := logging.Size(now)
	if now != f.OriginalSize {
		size = logging.Size(f.OriginalSize) + "->" + size
	}
	sum := ""
	if now != 0 {
		sum = " checksum " + hex.EncodeToString(content[:])
	}
	r.detail(worker, "%s %s (%s%s, %s)%s", verb, r.path(f.Name), where, size, percent(p.BytesDone, p.Bytes), sum)
	if c.damaged {
		r.Log.Warn(fmt.Sprintf("resumed backup file %s did not have expected checksum %x. The file was recopied and backup will"+
			" continue but this may be an issue unless the resumed backup path in the repository is known to be corrupted.\n"+
			"NOTE: this does not indicate a problem with the PostgreSQL page checksums.", f.Name, f.Checksum))
	}
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
