//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// binDir gives where a version of PostgreSQL is installed.
func binDir(major int) (string, error) {
	n := strconv.Itoa(major)
	home := cmp.Or(os.Getenv("PGX_TEST_HOME"), "/tmp/pgx-test")
	for _, dir := range []string{
		filepath.Join("/usr/lib/postgresql", n, "bin"),
		filepath.Join(home, "pg", n, "root/usr/lib/postgresql", n, "bin"),
	} {
		if _, err := os.Stat(filepath.Join(dir, "psql")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("PostgreSQL %d is not installed: run test/setup.sh, or choose another with -pg", major)
}

// makeCluster makes the cluster with its data, and keeps some of its WAL.
func (s *site) makeCluster(ctx context.Context) error {
	if _, err := output(s.command(ctx, filepath.Join(s.binDir, "initdb"), "-D", s.data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
		"--locale=C", "-k", "--no-sync")); err != nil {
		return err
	}
	// Nothing moves that pgx reads, and nobody waits for a cluster that need not be durable.
	f, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, `
listen_addresses = ''
unix_socket_directories = '%s'
max_wal_size = '2GB'
wal_keep_size = '%d MB'
fsync = off
autovacuum = off
archive_mode = on
archive_command = '/bin/true pgx'
`, s.root, 16*(s.segments+8))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := s.pgCtl(ctx, "start"); err != nil {
		return err
	}
	s.running = true
	if err := s.fill(ctx); err != nil {
		return err
	}
	return s.keepSegments(ctx)
}

func (s *site) pgCtl(ctx context.Context, args ...string) error {
	cmd := s.command(ctx, filepath.Join(s.binDir, "pg_ctl"), append([]string{"-D", s.data, "-w", "-l", s.path("server.log")}, args...)...)
	cmd.Stderr = os.Stderr // not a pipe: the server keeps it open
	return cmd.Run()
}

// query runs statements as the superuser and gives what they print, without decoration.
func (s *site) query(ctx context.Context, sql string) (string, error) {
	cmd := s.command(ctx, filepath.Join(s.binDir, "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-", "-h", s.root, "-U", "postgres", "postgres")
	cmd.Stdin = strings.NewReader(sql)
	return output(cmd)
}

// Tables as applications have them: text and JSON, which compress to about the half,
// measured numbers, which compress worse, and documents that are compressed already.
const schema = `
create table orders (id bigint primary key, customer int, created timestamptz, amount numeric(12,2), note text, detail jsonb);
create index on orders (customer);
create table readings (sensor int, taken timestamptz, value double precision, quality smallint);
create index on readings (sensor, taken);
create table documents (id bigint primary key, content bytea);
alter table documents alter content set storage external;
create table words as select n, (array['the','customer','asked','for','delivery','on','monday','please','call','before','invoice',
	'address','changed','contract','number','until','notice','damaged','box','refund','warehouse','returned','twice','without',
	'reason','account','of','order','sent','to','harbour','confirmed','by','telephone','open','question','taxes','letter'])[n + 1] as word
	from generate_series(0, 37) n;
`

// batch adds about 10 MB, the same in every run.
const batch = `
do $$ begin perform setseed(%[1]d / 1e10); end $$;
insert into orders select i, 100000 * random(), '2024-01-01'::timestamptz + i * interval '7 seconds', (1e5 * random())::numeric(12,2),
		(select string_agg(word, ' ') from (select word from words order by hashint8(n * 7919 + i) limit 5 + i %% 20) w),
		jsonb_build_object('key', md5(i::text), 'channel', (array['web','shop','phone'])[1 + i %% 3], 'weight', (5 * random())::numeric(6,3))
	from generate_series(%[1]d::bigint, %[1]d + 9999) i;
insert into readings select 500 * random(), '2024-01-01'::timestamptz + i * interval '1 second', 20 + 10 * random(), i %% 4
	from generate_series(%[1]d::bigint * 3, %[1]d::bigint * 3 + 29999) i;
insert into documents select i, (select string_agg(sha512((i || ':' || j)::bytea), ''::bytea) from generate_series(1, 64 + i %% 192) j)
	from generate_series(%[1]d::bigint, %[1]d + 249) i;
`

// fill generates data until the database has the size that was asked for.
func (s *site) fill(ctx context.Context) error {
	if _, err := s.query(ctx, schema); err != nil {
		return err
	}
	for row := 0; ; row += 10_000 {
		out, err := s.query(ctx, fmt.Sprintf(batch, row)+"select pg_database_size(current_database());")
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(out, 10, 64)
		if err != nil {
			return err
		}
		if size >= s.megabytes<<20 {
			_, err := s.query(ctx, "vacuum analyze; checkpoint;")
			return err
		}
	}
}

// keepSegments copies the last full WAL segments.
func (s *site) keepSegments(ctx context.Context) error {
	current, err := s.query(ctx, "select pg_walfile_name(pg_current_wal_insert_lsn())")
	if err != nil {
		return err
	}
	if err := s.mkdir(s.path("wal")); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(s.data, "pg_wal", strings.Repeat("[0-9A-F]", 24)))
	if err != nil {
		return err
	}
	// Those after the current one are old segments, renamed to be used again.
	found = slices.DeleteFunc(found, func(name string) bool { return filepath.Base(name) >= current })
	if len(found) < s.segments {
		return fmt.Errorf("there are only %d full WAL segments: more data (-size) or fewer -segments", len(found))
	}
	slices.Sort(found)
	for _, name := range found[len(found)-s.segments:] {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		to := s.path(filepath.Join("wal", filepath.Base(name)))
		if err := s.writeFile(to, b, 0o600); err != nil {
			return err
		}
		s.wal = append(s.wal, to)
	}
	return nil
}

// waitingData makes a data directory of which there is only what archive-push looks at, and
// whose segments all wait.
func (s *site) waitingData() (string, error) {
	s.made++
	data := s.path(fmt.Sprint("waiting-", s.made))
	for _, dir := range []string{"", "global", "pg_wal", "pg_wal/archive_status"} {
		if err := s.mkdir(filepath.Join(data, dir)); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"PG_VERSION", "global/pg_control"} {
		b, err := os.ReadFile(filepath.Join(s.data, name))
		if err != nil {
			return "", err
		}
		if err := s.writeFile(filepath.Join(data, name), b, 0o600); err != nil {
			return "", err
		}
	}
	for _, segment := range s.wal {
		name := filepath.Base(segment)
		if err := os.Link(segment, filepath.Join(data, "pg_wal", name)); err != nil {
			return "", err
		}
		if err := s.writeFile(filepath.Join(data, "pg_wal/archive_status", name+".ready"), nil, 0o600); err != nil {
			return "", err
		}
	}
	return data, nil
}

// addFiles makes n relations of one empty page, which are holes in the file system, in
// directories of databases that nobody connects to.
func (s *site) addFiles(ctx context.Context, n int) error {
	const (
		each  = 2500   // files in a directory
		first = 100000 // the oid of the first database
		page  = 8192
	)
	if err := s.pgCtl(ctx, "-m", "fast", "stop"); err != nil {
		return err
	}
	s.running = false
	dir := ""
	for i := range n {
		if i%each == 0 {
			dir = filepath.Join(s.data, "base", strconv.Itoa(first+i/each))
			if err := s.mkdir(dir); err != nil {
				return err
			}
		}
		name := filepath.Join(dir, strconv.Itoa(first+i))
		if err := errors.Join(s.writeFile(name, nil, 0o600), os.Truncate(name, page)); err != nil {
			return err
		}
	}
	if err := s.pgCtl(ctx, "start"); err != nil {
		return err
	}
	s.running = true
	return nil
}
