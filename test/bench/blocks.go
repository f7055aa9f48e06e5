//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// bundlesAndBlocks measures repositories that have files in bundles and in blocks: backups and restores of few pages,
// small files, and backups that go by WAL summaries.
func bundlesAndBlocks(ctx context.Context, common contest, tools []*tool, report *report) error {
	common.codec = common.daily.codec
	common.options = append(slices.Clone(common.options), "repo1-bundle=y", "repo1-block=y")
	if err := fewPages(ctx, common, tools, report); err != nil {
		return err
	}
	if err := smallFiles(ctx, common, tools, report); err != nil {
		return err
	}
	for _, x := range []struct {
		major     int
		operation string
	}{{17, summaryIncr17}, {18, summaryIncr18}} {
		common.major = x.major
		if err := bySummaries(ctx, common, tools, report, x.operation); err != nil {
			return err
		}
	}
	return nil
}

// loose is mixed with room in its pages, so that what an update writes stays in the page.
var loose = material{
	schema: mixed.schema + "alter table orders set (fillfactor = 90); alter table readings set (fillfactor = 90); alter table documents set (fillfactor = 90);\n",
	batch:  mixed.batch,
}

// fewPages measures restores that mend a hundredth of all pages, and incremental backups after a hundredth has changed.
func fewPages(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	fmt.Fprintf(os.Stderr, "making a PostgreSQL %d cluster of %d MB\n", common.major, common.megabytes)
	if common.server, err = common.newServer(ctx, "pages"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, common.server.stop()) }()
	if err := common.server.fill(ctx, loose, common.megabytes); err != nil {
		return err
	}
	if err := pagesDamaged(ctx, common, tools, report); err != nil {
		return err
	}
	return common.chains(ctx, tools, func(all []contest) error {
		return common.follow(ctx, all, report, "1 % of pages changed", common.server.changePages, step{blockIncr, contest.incr})
	})
}

// follow measures a backup after each change. What it gives is restored and compared.
func (c contest) follow(ctx context.Context, all []contest, report *report, what string, change func(context.Context, round) error, backup step) error {
	for _, c := range all {
		if _, err := c.restore(ctx); err != nil {
			return err
		}
	}
	return c.inRounds(ctx, what, func(r round) error {
		if err := change(ctx, r); err != nil {
			return err
		}
		if err := r.take(ctx, all, report, backup); err != nil {
			return err
		}
		for _, c := range all {
			if _, err := c.mend(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// changePages changes a row in about one of a hundred pages of each table, spread over all of it, and so much of the
// large values; which ones depends on the round.
func (s *server) changePages(ctx context.Context, r round) error {
	_, err := s.query(ctx, fmt.Sprintf(`
create or replace function hundred_pages(of regclass) returns int stable language sql
	as 'select (100 * reltuples / relpages)::int from pg_class where oid = of';
update orders set amount = amount + 1, status = 'paid' where pick(id, %[1]d, (select hundred_pages('orders'))) = 0;
update readings set quality = (quality + 1) %% 4 where pick(extract(epoch from taken)::bigint, %[1]d, (select hundred_pages('readings'))) = 0;
update documents set content = sha512(content) || substr(content, 65) where pick(id, %[1]d, 250) = 0;
vacuum orders, readings, documents;
checkpoint;`, 1000+r.number))
	return err
}

// smallFiles measures full backups, incremental ones in which nothing has changed, and restores of a cluster of many
// small files, each time in new repositories.
func smallFiles(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	fmt.Fprintf(os.Stderr, "making a PostgreSQL %d cluster of %d files\n", common.major, common.daily.files)
	if common.server, err = common.newServer(ctx, "small"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, common.server.stop()) }()
	if err := common.server.withFiles(ctx, common.daily.files); err != nil {
		return err
	}
	return common.inRounds(ctx, "small files", func(r round) error {
		return r.compete(ctx, common, tools, report, step{smallFull, contest.full}, step{smallIncr, contest.incr}, step{smallRestore, contest.restore})
	})
}

// bySummaries measures what pgx, which alone goes by WAL summaries, reads where changes are in few files.
func bySummaries(ctx context.Context, common contest, tools []*tool, report *report, operation string) (err error) {
	fmt.Fprintf(os.Stderr, "making a PostgreSQL %d cluster of %d MB, with WAL summaries\n", common.major, common.megabytes)
	if common.server, err = common.newServer(ctx, fmt.Sprintf("summaries-%d", common.major)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, common.server.stop()) }()
	if _, err := common.server.query(ctx, "create table few (n bigint); alter system set summarize_wal = on; select pg_reload_conf();"); err != nil {
		return err
	}
	if err := common.server.fill(ctx, mixed, common.megabytes); err != nil {
		return err
	}
	mine := slices.DeleteFunc(slices.Clone(tools), func(t *tool) bool { return t.name != pgxName })
	return common.chains(ctx, mine, func(all []contest) error {
		return common.follow(ctx, all, report, operation, common.server.changeFew, step{operation, contest.incrBySummaries})
	})
}

// changeFew changes two small tables.
func (s *server) changeFew(ctx context.Context, r round) error {
	_, err := s.query(ctx, fmt.Sprintf(`
insert into few select generate_series(1, 1000);
update documents set name = 'changed in round %d' where id < 20;`, r.number))
	return err
}

// incrBySummaries makes an incremental backup that goes by WAL summaries, and else would read all files.
func (c contest) incrBySummaries(ctx context.Context) (sample, error) {
	s, err := c.backUp(ctx, "incr", "--backup-summary", "--delta")
	if err != nil {
		return s, err
	}
	s.Data, err = sizeOf(filepath.Join(c.server.data, "base"))
	return s, err
}

// pagesDamaged measures restores that mend a hundredth of all pages out of a backup. It is one of pgbackrest's, so that both read the same.
func pagesDamaged(ctx context.Context, common contest, tools []*tool, report *report) error {
	return common.entrants(ctx, tools, func(all []contest) error {
		for _, c := range all {
			if c.name != peerName {
				continue
			}
			if _, err := c.full(ctx); err != nil {
				return err
			}
		}
		for i := range all {
			c := &all[i]
			c.dir, c.store = c.path("theirs"), c.theirs
			if err := c.configure(); err != nil {
				return err
			}
			if _, err := c.restore(ctx); err != nil {
				return err
			}
		}
		return common.inRounds(ctx, "1 % of pages damaged", func(r round) error {
			return r.take(ctx, all, report, step{blockDelta, contest.mendPages})
		})
	})
}

// mendPages damages pages of what was restored, and mends them.
func (c contest) mendPages(ctx context.Context) (sample, error) {
	if err := damagePages(c.path("restored"), c.m.turn.number); err != nil {
		return sample{}, err
	}
	return c.mend(ctx)
}

// damagePages spoils a hundredth of the pages of all databases, which ones depends on the round.
func damagePages(restored string, round int) error {
	return filepath.WalkDir(filepath.Join(restored, "base"), func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		h := fnv.New64a()
		fmt.Fprint(h, filepath.Base(filepath.Dir(name)), "/", e.Name())
		chance := rand.New(rand.NewPCG(h.Sum64(), uint64(round)))
		for at := int64(0); at < info.Size() && err == nil; at += 8192 {
			if chance.IntN(100) == 0 {
				_, err = f.WriteAt([]byte("damaged"), at+100)
			}
		}
		return errors.Join(err, f.Close())
	})
}
