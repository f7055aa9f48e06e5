//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// settings is what the command line says.
type settings struct {
	pgx, peer  string // paths of the programs
	dir        string // for everything that is written
	major      int    // of PostgreSQL
	megabytes  int64  // of generated data, indexes included
	partSize   int64  // the same of each part of the corpus that is measured alone
	rounds     int
	targets    bool // nothing but what the table of targets asks for
	segments   int  // WAL segments pushed and fetched
	processMax int
	async      asyncSettings
	daily      dailySettings
	catalogue  catalogueSettings
	parts      []string
	codecs     []string // of the part local
	alone      []string // parts of the corpus
	aloneIn    []string // codecs of the part corpus
	far        []string // codecs of the part remote
	pairs      int      // of archive-push in the part remote
	options    []string // added to the configuration of both programs
	json       string
	svg        string // directory for pictures
}

// The parts of the benchmark.
const (
	local     = "local"
	corpus    = "corpus"
	remote    = "remote"
	daily     = "daily"
	blocks    = "blocks"
	catalogue = "catalogue"
	async     = "async"
)

// oneCodec is what the table of targets asks for where it asks for one.
const oneCodec = "lz4"

func parse(args []string) (settings, error) {
	var s settings
	var parts, codecs, alone, aloneIn, far string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&s.pgx, "pgx", "bin/pgx", "`path` of pgx")
	f.StringVar(&s.peer, "pgbackrest", filepath.Join(home(), "pg/18/root/usr/bin/pgbackrest"), "`path` of pgbackrest")
	f.StringVar(&s.dir, "dir", os.TempDir(), "`directory` on the file system to measure; needs eight times the size, of async five times the segments")
	f.IntVar(&s.major, "pg", 18, "`major` version of PostgreSQL")
	f.Int64Var(&s.megabytes, "size", 2000, "`MB` of generated data, indexes included")
	f.Int64Var(&s.partSize, "part-size", 0, "`MB` of each part of the corpus alone (default a fifth of -size)")
	f.IntVar(&s.rounds, "rounds", 7, "`number` of rounds; medians are shown")
	f.BoolVar(&s.targets, "targets", false, "of all parts only what the table of targets asks for, and no syncs counted")
	f.IntVar(&s.segments, "segments", 8, "`number` of WAL segments to push and to fetch")
	f.IntVar(&s.async.segments, "async-segments", 200, "`number` of WAL segments of async")
	f.DurationVar(&s.async.steady, "steady", time.Minute, "`time` that async loads a server for")
	f.IntVar(&s.daily.files, "files", 50_000, "`number` of files of the cluster in which nothing changes, of daily and blocks")
	f.StringVar(&s.daily.codec, "daily-codec", "zst", "compress `type` of daily and blocks")
	f.IntVar(&s.catalogue.backups, "backups", 1000, "`number` of backups of catalogue, each of which needs ten WAL segments")
	f.IntVar(&s.catalogue.files, "manifest-files", 1_000_000, "`number` of files of the newest backup of catalogue")
	f.IntVar(&s.processMax, "process-max", runtime.NumCPU(), "`number` of processes of a backup or restore")
	f.StringVar(&parts, "parts", "local,corpus,remote,daily,blocks,catalogue,async", "what to measure, `list` with commas")
	f.StringVar(&codecs, "codecs", "none,lz4,zst,gz", "compress types of local, `list` with commas")
	f.StringVar(&alone, "corpus", strings.Join(corpusNames(), ","), "parts of the corpus to measure alone, `list` with commas")
	f.StringVar(&aloneIn, "corpus-codecs", "none,lz4,zst,gz", "compress types of corpus, `list` with commas")
	f.StringVar(&far, "remote-codecs", "none,lz4,zst", "compress types of remote, `list` with commas")
	f.IntVar(&s.pairs, "pairs", 15, "`number` of WAL segments that both push between hosts")
	f.Func("option", "`key=value` for the configuration of both programs, may be repeated", func(o string) error {
		if !strings.Contains(o, "=") {
			return errors.New("key=value expected")
		}
		s.options = append(s.options, o)
		return nil
	})
	f.StringVar(&s.svg, "svg", "", "`directory` to write the pictures "+barsName+" and, of async, "+pictureName+" to")
	f.StringVar(&s.json, "json", "", "`file` to write all measurements to")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument '%s'", f.Arg(0))
	}
	types := []string{"none", "lz4", "zst", "gz", "bz2"}
	for _, l := range []struct {
		flag, given string
		known       []string
		list        *[]string
	}{
		{"parts", parts, []string{local, corpus, remote, daily, blocks, catalogue, async}, &s.parts},
		{"codecs", codecs, types, &s.codecs}, {"corpus", alone, corpusNames(), &s.alone}, {"corpus-codecs", aloneIn, types, &s.aloneIn},
		{"remote-codecs", far, types, &s.far}, {"daily-codec", s.daily.codec, types, new([]string)},
	} {
		*l.list = strings.Split(l.given, ",")
		for _, x := range *l.list {
			if !slices.Contains(l.known, x) {
				return s, fmt.Errorf("unknown '%s' in -%s: it can be %s", x, l.flag, strings.Join(l.known, ", "))
			}
		}
	}
	if s.partSize == 0 {
		s.partSize = max(s.megabytes/5, 1)
	}
	if s.targets {
		s.parts = slices.DeleteFunc(s.parts, func(p string) bool { return p == async })
		s.aloneIn, s.far = []string{oneCodec}, []string{oneCodec}
	}
	for _, n := range []int64{s.megabytes, s.partSize, int64(s.rounds), int64(s.segments), int64(s.async.segments), int64(s.processMax),
		int64(s.pairs), int64(s.daily.files), int64(s.catalogue.backups), int64(s.catalogue.files)} {
		if n < 1 {
			return s, errors.New("sizes and numbers must be at least 1")
		}
	}
	if s.async.steady < time.Second {
		return s, errors.New("-steady must be at least 1s")
	}
	if info, err := os.Stat(s.svg); s.svg != "" && (err != nil || !info.IsDir()) {
		return s, fmt.Errorf("'%s' of -svg is not a directory", s.svg) // not to learn it in the end
	}
	for _, program := range []struct{ path, hint string }{
		{s.pgx, "run 'make build', or give its path with -pgx"},
		{s.peer, "run test/setup.sh, or give its path with -pgbackrest"},
	} {
		if !executable(program.path) {
			return s, fmt.Errorf("program '%s' is missing: %s", program.path, program.hint)
		}
	}
	return s, nil
}
