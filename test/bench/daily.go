//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// dailySettings is what the command line says of the part daily.
type dailySettings struct {
	files int    // of the cluster in which nothing changes
	codec string // of all backups
}

// everyDay measures what is done day after day: incremental backups of a cluster of many
// files in which nothing changes and of one in which a hundredth does, the restore that
// mends a hundredth, and encrypted backups.
func everyDay(ctx context.Context, common contest, tools []*tool, report *report) error {
	common.codec = common.daily.codec
	if err := nothingChanged(ctx, common, tools, report); err != nil || common.targets {
		return err
	}
	return hundredthChanged(ctx, common, tools, report)
}

// nothingChanged measures incremental backups of a cluster of many files, each after the one
// before, in a repository of each program.
func nothingChanged(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	fmt.Fprintf(os.Stderr, "making a PostgreSQL %d cluster of %d files\n", common.major, common.daily.files)
	if common.server, err = common.newServer(ctx, "files"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, common.server.stop()) }()
	if err := common.server.withFiles(ctx, common.daily.files); err != nil {
		return err
	}
	return common.chains(ctx, tools, func(all []contest) error {
		err := common.inRounds(ctx, "nothing changed", func(r round) error {
			return r.take(ctx, all, report, step{unchangedBackup, contest.incr})
		})
		if err != nil {
			return err
		}
		for _, c := range all {
			if _, err := c.restore(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// hundredthChanged measures incremental backups and restores with delta of a cluster of a given
// size, and encrypted ones.
func hundredthChanged(ctx context.Context, common contest, tools []*tool, report *report) (err error) {
	fmt.Fprintf(os.Stderr, "making a PostgreSQL %d cluster of %d MB\n", common.major, common.megabytes)
	if common.server, err = common.newServer(ctx, "changes"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, common.server.stop()) }()
	if err := common.server.fill(ctx, mixed, common.megabytes); err != nil {
		return err
	}
	if err := encrypted(ctx, common, tools, report); err != nil {
		return err
	}
	return common.chains(ctx, tools, func(all []contest) error {
		for _, c := range all {
			if _, err := c.restore(ctx); err != nil {
				return err
			}
		}
		return common.inRounds(ctx, "1 % changed", func(r round) error {
			if err := common.server.changeHundredth(ctx); err != nil {
				return err
			}
			if err := r.take(ctx, all, report, step{changedBackup, contest.incr}); err != nil {
				return err
			}
			for _, c := range all {
				if _, err := c.mend(ctx); err != nil { // it is the backup's cluster now, and so the backup is right
					return err
				}
			}
			return r.take(ctx, all, report, step{deltaRestore, contest.mendDamage})
		})
	})
}

// encrypted measures full backups and restores of encrypted repositories, each time of new ones.
func encrypted(ctx context.Context, common contest, tools []*tool, report *report) error {
	common.options = append(slices.Clone(common.options), "repo1-cipher-type=aes-256-cbc", "repo1-cipher-pass=not-much-of-a-secret")
	return common.inRounds(ctx, "encrypted", func(r round) error {
		return r.compete(ctx, common, tools, report, step{encryptedBackup, contest.full}, step{encryptedRestore, contest.restore})
	})
}

// newServer makes a server in a directory of its own.
func (c contest) newServer(ctx context.Context, name string) (*server, error) {
	dir := filepath.Join(filepath.Dir(c.dir), name)
	if err := c.m.mkdir(dir); err != nil {
		return nil, err
	}
	return newServer(ctx, c.m.account, c.major, filepath.Join(dir, "data"))
}

// chains has each program begin a chain with a full backup in a repository of its own, and
// gives all to work.
func (c contest) chains(ctx context.Context, tools []*tool, work func([]contest) error) error {
	return c.entrants(ctx, tools, func(all []contest) error {
		for _, one := range all {
			if _, err := one.full(ctx); err != nil {
				return err
			}
		}
		return work(all)
	})
}

// full makes a full backup.
func (c contest) full(ctx context.Context) (sample, error) { return c.backUp(ctx, "full") }

// incr makes an incremental backup.
func (c contest) incr(ctx context.Context) (sample, error) { return c.backUp(ctx, "incr") }

// backUp makes a backup of a type, which info has to list. Stored is what it added.
func (c contest) backUp(ctx context.Context, kind string, options ...string) (s sample, err error) {
	if _, err := c.server.query(ctx, "checkpoint"); err != nil {
		return s, err
	}
	before, err := c.listed(ctx)
	if err != nil {
		return s, err
	}
	had, err := sizeOf(c.path("repo/backup"))
	if err != nil {
		return s, err
	}
	// Within a second backups wait for the next one: see round.phase.
	c.m.wait = true
	if s, err = c.measure(ctx, repoHost, append([]string{"backup", "--type=" + kind}, options...)...); err != nil {
		return s, err
	}
	after, err := c.listed(ctx)
	if err != nil {
		return s, err
	}
	if len(after) != len(before)+1 || after[len(after)-1] != kind {
		return s, fmt.Errorf("after a backup of type %s by %s its info lists %v, and before %v", kind, c.name, after, before)
	}
	has, err := sizeOf(c.path("repo/backup"))
	s.Stored = has - had
	return s, err
}

// listed gives the types of the backups that the program's own info lists, the oldest first.
func (c contest) listed(ctx context.Context) (types []string, err error) {
	text, err := output(c.m.command(ctx, c.tool.path, c.args(repoHost, "info", "--output=json")...))
	if err != nil {
		return nil, err
	}
	var stanzas []struct {
		Backup []struct {
			Type  string
			Error bool
		}
	}
	if err := json.Unmarshal([]byte(text), &stanzas); err != nil {
		return nil, fmt.Errorf("info of %s: %w", c.name, err)
	}
	if len(stanzas) != 1 {
		return nil, fmt.Errorf("info of %s lists %d stanzas", c.name, len(stanzas))
	}
	for _, b := range stanzas[0].Backup {
		if b.Error {
			return nil, fmt.Errorf("a backup by %s has page checksum errors", c.name)
		}
		types = append(types, b.Type)
	}
	return types, nil
}

// mend brings what was restored to the newest backup, which has to be what the cluster is.
func (c contest) mend(ctx context.Context) (sample, error) {
	to := c.path("restored")
	s, err := c.measure(ctx, pgHost, "restore", "--delta", "--pg1-path="+to)
	if err != nil {
		return s, err
	}
	return s, sameTables(c.server.data, to)
}

// mendDamage damages what was restored, and mends it.
func (c contest) mendDamage(ctx context.Context) (sample, error) {
	if err := damage(c.path("restored"), c.m.turn.number); err != nil {
		return sample{}, err
	}
	return c.mend(ctx)
}

// withFiles restarts the server with n more files.
func (s *server) withFiles(ctx context.Context, n int) error {
	if err := s.shutDown(ctx); err != nil {
		return err
	}
	// It is started in any case: stop expects that.
	return errors.Join(s.addFiles(n), s.start(ctx))
}

// addFiles makes n relations of one empty page, which are holes in the file system, in
// directories of databases that nobody connects to. The server is not running.
func (s *server) addFiles(n int) error {
	const (
		each  = 2500   // files in a directory
		first = 100000 // the oid of the first database
		page  = 8192
	)
	dir := ""
	for i := range n {
		if i%each == 0 {
			dir = filepath.Join(s.data, "base", strconv.Itoa(first+i/each))
			if err := s.mkdir(dir); err != nil {
				return err
			}
		}
		name := filepath.Join(dir, strconv.Itoa(first+i))
		if err := errors.Join(s.writeFile(name, nil), os.Truncate(name, page)); err != nil {
			return err
		}
	}
	return nil
}

// changeHundredth changes the newest hundredth of all rows. What is large and never changes,
// the documents, stays as it is.
func (s *server) changeHundredth(ctx context.Context) error {
	_, err := s.query(ctx, `
update orders set amount = amount + 1, status = 'paid' where id >= (select 0.99 * max(id) from orders);
update readings set quality = (quality + 1) % 4 where taken >= (select max(taken) - 0.01 * (max(taken) - min(taken)) from readings);
update documents set name = 'changed' where id >= (select 0.99 * max(id) from documents);
vacuum orders, readings, documents;
checkpoint;`)
	return err
}

// damage spoils a hundredth of the files of all databases, which ones depends on the round: it
// removes one, overwrites a page of the next and cuts one after that in half.
func damage(restored string, round int) error {
	var names []string
	err := filepath.WalkDir(filepath.Join(restored, "base"), func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		h := fnv.New32a()
		fmt.Fprint(h, round, filepath.Base(filepath.Dir(name)), "/", e.Name())
		if h.Sum32()%100 == 0 {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		switch {
		case i%3 == 0:
			err = os.Remove(name)
		case i%3 == 2:
			err = os.Truncate(name, info.Size()/2)
		default:
			err = spoilPage(name, info.Size()/2)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// spoilPage writes what no page holds over a file from an offset on.
func spoilPage(name string, at int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	page := make([]byte, 8192)
	for i := range page {
		page[i] = byte(i*7 + 1)
	}
	_, err = f.WriteAt(page, at)
	return errors.Join(err, f.Close())
}
