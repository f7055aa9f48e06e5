//go:build linux

package main

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is all that was measured, as the JSON file has it.
type report struct {
	Date       time.Time `json:"date"`
	Kernel     string    `json:"kernel"`
	CPU        string    `json:"cpu"`
	CPUs       int       `json:"cpus"`
	PostgreSQL string    `json:"postgresql"`
	Programs   []string  `json:"programs"` // versions, pgx first
	Size       int64     `json:"size_mb"`
	PartSize   int64     `json:"part_size_mb"`
	ProcessMax int       `json:"process_max"`
	Rounds     int       `json:"rounds"`
	Pairs      int       `json:"pairs"`       // of archive-push between hosts
	Files      int       `json:"daily_files"` // of the cluster in which nothing changes
	Backups    int       `json:"catalogue_backups"`
	Million    int       `json:"catalogue_files"` // of its newest backup
	Options    []string  `json:"options,omitempty"`
	RSSFloor   int64     `json:"max_rss_floor"` // bytes shown for a program that needs none
	Rows       []*row    `json:"results"`
	Async      *findings `json:"async,omitempty"`
}

// row is one line of the table: both programs doing the same. Those of archive-push and
// archive-get are for one segment.
type row struct {
	Operation string             `json:"operation"`
	Corpus    string             `json:"corpus,omitempty"` // the part of it that is alone
	Codec     string             `json:"codec"`
	Samples   map[string]samples `json:"samples"`         // of each program, one a round
	Syncs     map[string]float64 `json:"syncs,omitempty"` // of each program
	Median    map[string]sample  `json:"median"`
	Ratio     ratio              `json:"ratio"`
}

// ratio is pgx divided by another program, which is pgbackrest in rows: the median of what the
// rounds give, as only the two measurements of one round were made under the same conditions.
type ratio struct {
	CPU    spread `json:"cpu"`
	Wall   spread `json:"wall"`
	RSS    spread `json:"max_rss"`
	Stored spread `json:"stored"`
}

// spread is a median with its quartiles. Zeros: unknown.
type spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"quartile_1"`
	High   float64 `json:"quartile_3"`
}

func newSpread(values []float64) spread {
	return spread{median(values), quantile(values, 0.25), quantile(values, 0.75)}
}

func newReport(ctx context.Context, m measurer, s settings) (*report, error) {
	dir, err := binDir(s.major)
	if err != nil {
		return nil, err
	}
	postgres, err := output(m.command(ctx, filepath.Join(dir, "postgres"), "--version"))
	if err != nil {
		return nil, err
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(postgres, "postgres (PostgreSQL) "), " ")
	r := &report{
		Date: time.Now().UTC().Truncate(time.Second), CPU: cpuModel(), CPUs: runtime.NumCPU(), PostgreSQL: version,
		Size: s.megabytes, PartSize: s.partSize, ProcessMax: s.processMax, Rounds: s.rounds, Pairs: s.pairs, Options: s.options,
		Files: s.daily.files, Backups: s.catalogue.backups, Million: s.catalogue.files,
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, err
	}
	r.Kernel = unix.ByteSliceToString(u.Release[:])
	for _, path := range []string{filepath.Join(filepath.Dir(m.self), "pgx"), s.peer} {
		version, err := output(m.command(ctx, path, "version"))
		if err != nil {
			return nil, err
		}
		r.Programs = append(r.Programs, version)
	}
	nothing, err := m.run(ctx, "/bin/true")
	r.RSSFloor = nothing.RSS
	return r, err
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo") // only to be shown
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// row gives the row of what a contest measures.
func (r *report) row(operation string, c contest) *row {
	i := slices.IndexFunc(r.Rows, func(x *row) bool { return x.Operation == operation && x.Corpus == c.corpus && x.Codec == c.codec })
	if i < 0 {
		i = len(r.Rows)
		r.Rows = append(r.Rows, &row{
			Operation: operation, Corpus: c.corpus, Codec: c.codec, Samples: map[string]samples{}, Syncs: map[string]float64{},
		})
	}
	return r.Rows[i]
}

// add keeps what the contest has measured, or counted.
func (r *report) add(operation string, c contest, s sample) {
	x := r.row(operation, c)
	if c.m.turn.counts() {
		x.Syncs[c.name] = s.Syncs
		return
	}
	x.Samples[c.name] = append(x.Samples[c.name], s)
}

// summarize computes what the samples come to, and puts the rows in order.
func (r *report) summarize() {
	slices.SortStableFunc(r.Rows, func(a, b *row) int {
		return slices.Index(operations, a.Operation) - slices.Index(operations, b.Operation)
	})
	for _, x := range r.Rows {
		x.Median = map[string]sample{}
		for tool, all := range x.Samples {
			x.Median[tool] = sample{
				Wall:   all.median(wall),
				CPU:    all.median(cpu),
				RSS:    int64(all.median(rss)),
				Stored: int64(all.median(stored)),
				Read:   int64(all.median(read)),
				Data:   int64(all.median(data)),
			}
		}
		x.Ratio = x.to(peerName)
	}
}

// to gives the ratio to another program.
func (x *row) to(other string) ratio {
	return ratio{
		CPU: newSpread(x.ratios(other, cpu)), Wall: newSpread(x.ratios(other, wall)),
		RSS: newSpread(x.ratios(other, rss)), Stored: newSpread(x.ratios(other, stored)),
	}
}

func wall(s sample) float64   { return s.Wall }
func cpu(s sample) float64    { return s.CPU }
func rss(s sample) float64    { return float64(s.RSS) }
func stored(s sample) float64 { return float64(s.Stored) }
func read(s sample) float64   { return float64(s.Read) }
func data(s sample) float64   { return float64(s.Data) }

func (all samples) median(of func(sample) float64) float64 {
	var values []float64
	for _, s := range all {
		values = append(values, of(s))
	}
	return median(values)
}

// ratios gives those of the rounds that both programs were in.
func (x *row) ratios(other string, of func(sample) float64) (values []float64) {
	mine, theirs := x.Samples[pgxName], x.Samples[other]
	for i := range min(len(mine), len(theirs)) {
		if theirs := of(theirs[i]); theirs > 0 {
			values = append(values, of(mine[i])/theirs)
		}
	}
	return values
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile gives the value below which a part of them is, in a straight line between the two
// next to it, or 0 if there is none.
func quantile(values []float64, part float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	whole, rest := math.Modf(part * float64(len(values)-1))
	i := int(whole)
	return values[i] + rest*(values[min(i+1, len(values)-1)]-values[i])
}

func mb(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func (r *report) write(name string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
