//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
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
	ProcessMax int       `json:"process_max"`
	Rounds     int       `json:"rounds"`
	Pairs      int       `json:"pairs"` // of archive-push between hosts
	Options    []string  `json:"options,omitempty"`
	RSSFloor   int64     `json:"max_rss_floor"` // bytes shown for a program that needs none
	Rows       []*row    `json:"results"`
	Async      *findings `json:"async,omitempty"`
}

// row is one line of the table: both programs doing the same. Those of archive-push and
// archive-get are for one segment.
type row struct {
	Operation string             `json:"operation"`
	Codec     string             `json:"codec"`
	Samples   map[string]samples `json:"samples"` // of each program, one a round
	Median    map[string]sample  `json:"median"`
	Ratio     ratio              `json:"ratio"`
}

// ratio is pgx divided by pgbackrest: the median of what the rounds give, as only the
// two measurements of one round were made under the same conditions. 0: unknown.
type ratio struct {
	Wall   float64 `json:"wall"`
	Low    float64 `json:"wall_quartile_1"`
	High   float64 `json:"wall_quartile_3"`
	CPU    float64 `json:"cpu"`
	RSS    float64 `json:"max_rss"`
	Stored float64 `json:"stored"`
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
		Size: s.megabytes, ProcessMax: s.processMax, Rounds: s.rounds, Pairs: s.pairs, Options: s.options,
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

func (r *report) add(operation, codec, tool string, s sample) {
	i := slices.IndexFunc(r.Rows, func(x *row) bool { return x.Operation == operation && x.Codec == codec })
	if i < 0 {
		i = len(r.Rows)
		r.Rows = append(r.Rows, &row{Operation: operation, Codec: codec, Samples: map[string]samples{}})
	}
	r.Rows[i].Samples[tool] = append(r.Rows[i].Samples[tool], s)
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
			}
		}
		walls := x.ratios(wall)
		x.Ratio = ratio{
			Wall: median(walls), Low: quantile(walls, 0.25), High: quantile(walls, 0.75),
			CPU: median(x.ratios(cpu)), RSS: median(x.ratios(rss)), Stored: median(x.ratios(stored)),
		}
	}
}

func wall(s sample) float64   { return s.Wall }
func cpu(s sample) float64    { return s.CPU }
func rss(s sample) float64    { return float64(s.RSS) }
func stored(s sample) float64 { return float64(s.Stored) }

func (all samples) median(of func(sample) float64) float64 {
	var values []float64
	for _, s := range all {
		values = append(values, of(s))
	}
	return median(values)
}

func (x *row) ratios(of func(sample) float64) (values []float64) {
	for i, mine := range x.Samples[pgxName] {
		if theirs := of(x.Samples[peerName][i]); theirs > 0 {
			values = append(values, of(mine)/theirs)
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

// table prints the medians and ratios.
func (r *report) table(w io.Writer) {
	r.summarize()
	fmt.Fprintf(w, "%s and %s, PostgreSQL %s, process-max %d\n%d x %s, Linux %s, %s\n", r.Programs[0], r.Programs[1],
		r.PostgreSQL, r.ProcessMax, r.CPUs, r.CPU, r.Kernel, r.Date.Format(time.DateTime))
	if len(r.Rows) > 0 {
		r.runs(w)
	}
	if r.Async != nil {
		r.Async.table(w)
	}
}

// runs prints what single runs of the programs took.
func (r *report) runs(w io.Writer) {
	fmt.Fprintf(w, "\n%d MB\n\n", r.Size)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\t\twall s\t\t\t\tCPU s\t\t\tRSS MB\t\t\tstored MB\t\t\t")
	fmt.Fprintln(t, "\t\tpgx\tpgbackrest\tratio\tquartiles\t"+strings.Repeat("pgx\tpgbackrest\tratio\t", 3))
	for _, x := range r.Rows {
		mine, theirs := x.Median[pgxName], x.Median[peerName]
		fmt.Fprintf(t, "%s\t%s\t%.3f\t%.3f\t%.2f\t%.2f–%.2f\t%.3f\t%.3f\t%.2f\t%.1f\t%.1f\t%.2f\t", x.Operation, x.Codec,
			mine.Wall, theirs.Wall, x.Ratio.Wall, x.Ratio.Low, x.Ratio.High, mine.CPU, theirs.CPU, x.Ratio.CPU,
			mb(mine.RSS), mb(theirs.RSS), x.Ratio.RSS)
		if mine.Stored+theirs.Stored > 0 {
			fmt.Fprintf(t, "%.1f\t%.1f\t%.2f\t\n", mb(mine.Stored), mb(theirs.Stored), x.Ratio.Stored)
		} else {
			fmt.Fprintln(t, "\t\t\t")
		}
	}
	_ = t.Flush() // as for every print to standard output
	fmt.Fprintf(w, "\nMedians of %d rounds, of archive-push between hosts %d; a ratio is the median of those of the rounds,\n"+
		"pgx / pgbackrest, with quartiles: below 1 pgx takes less.\n"+
		"CPU is that of all processes; of ssh and server also what sshd, what it starts and the server take, on both hosts.\n"+
		"RSS is that of the largest process (%.1f MB for one that needs nothing), of those that sshd starts none.\n"+
		"archive-push and archive-get: for one segment. server: pgx to its resident server, pgbackrest over ssh.\n",
		r.Rounds, r.Pairs, mb(r.RSSFloor))
}

func mb(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func (r *report) write(name string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
