//go:build linux

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// material is a kind of data. All values come from hashes of the row number, so every run has
// the same.
type material struct {
	schema string
	batch  string // adds about 10 MB: rows from %[1]d on
}

// batchRows is by how much the row number grows from batch to batch.
const batchRows = 10_000

// helpers are functions that tables are filled by.
const helpers = `
create function pick(n bigint, salt int, choices int) returns int immutable parallel safe language sql
	as 'select (hashint8extended(n, salt) & 2147483647) % choices';
create function prose(n bigint, words int) returns text immutable parallel safe language sql as $$
	select string_agg((array['the','customer','asked','for','delivery','on','monday','please','call','before','invoice',
		'address','has','changed','new','contract','number','until','further','notice','damaged','box','replaced','refund',
		'and','north','warehouse','returned','twice','without','reason','premium','account','of','order','was','sent','to',
		'harbour','street','confirmed','by','telephone','open','question','about','taxes','see','attached','letter'])
		[1 + public.pick(n, i, 50)], ' ') from generate_series(1, words) i $$;
`

// mixed is tables as applications have them: orders with text and json, which compress about to
// the half, measured numbers, which compress worse, and documents that are compressed
// already.
var mixed = material{
	schema: helpers + `
create table orders (id bigint primary key, customer int not null, created timestamptz not null,
	amount numeric(12,2) not null, status text not null, note text, detail jsonb);
create index on orders (customer);
create index on orders (created);
create table readings (sensor int not null, taken timestamptz not null, value double precision, quality smallint);
create index on readings (sensor, taken);
create table documents (id bigint primary key, name text not null, content bytea not null);
alter table documents alter content set storage external;
`,
	batch: `
insert into orders select i, pick(i, 1, 100000), '2024-01-01'::timestamptz + i * interval '7 seconds',
		pick(i, 2, 10000000) / 100.0, (array['new','paid','sent','sent','sent','returned'])[1 + pick(i, 3, 6)],
		prose(i, 5 + pick(i, 4, 20)),
		jsonb_build_object('key', md5(i::text), 'channel', (array['web','shop','phone'])[1 + pick(i, 5, 3)],
			'items', jsonb_build_array(pick(i, 6, 9999), pick(i, 7, 9999), pick(i, 8, 9999)), 'weight', pick(i, 9, 5000) / 1000.0)
	from generate_series(%[1]d::bigint, %[1]d + 9999) i;
insert into readings select pick(i, 1, 500), '2024-01-01'::timestamptz + i * interval '1 second',
		20 + pick(i, 2, 1000000000) / 1e8, pick(i, 3, 4)
	from generate_series(%[1]d::bigint * 3, %[1]d::bigint * 3 + 29999) i;
insert into documents select i, prose(i, 3) || '.pdf',
		(select string_agg(sha512((i || ':' || j)::bytea), ''::bytea) from generate_series(1, 64 + pick(i, 1, 192)) j)
	from generate_series(%[1]d::bigint, %[1]d + 249) i;
`,
}

// The parts of the corpus, which are measured alone.
var parts = map[string]material{
	"text": {
		schema: helpers + "create table notes (id bigint not null, title text not null, body text not null);\n",
		batch: `
insert into notes select i, prose(i, 4), prose(-i, 40 + pick(i, 1, 160)) from generate_series(%[1]d::bigint, %[1]d + 9999) i;
`,
	},
	"json": {
		schema: helpers + "create table events (id bigint not null, event jsonb not null);\n",
		batch: `
insert into events select i, jsonb_build_object('id', md5(i::text), 'type', (array['view','click','order','error'])[1 + pick(i, 1, 4)],
		'at', '2024-01-01'::timestamptz + i * interval '7 seconds', 'user', jsonb_build_object('id', pick(i, 2, 100000),
			'name', prose(i, 2), 'groups', jsonb_build_array(pick(i, 3, 50), pick(i, 4, 50))),
		'page', '/' || replace(prose(i, 3), ' ', '/'), 'referrer', case pick(i, 5, 3) when 0 then null else 'https://' || prose(-i, 1) || '.example/' end,
		'duration', pick(i, 6, 100000) / 1000.0, 'items', (select jsonb_agg(jsonb_build_object('sku', 'A' || pick(i, j, 99999), 'count', pick(i, -j, 9),
			'price', pick(i, j + 100, 100000) / 100.0)) from generate_series(1, 1 + pick(i, 7, 12)) j))
	from generate_series(%[1]d::bigint, %[1]d + 9999) i;
`,
	},
	"numbers": {
		schema: helpers + `create table measures (sensor int not null, taken timestamptz not null, value double precision not null,
	low real not null, total numeric(14,4) not null, quality smallint not null);
`,
		batch: `
insert into measures select pick(i, 1, 500), '2024-01-01'::timestamptz + i * interval '1 second', 20 + pick(i, 2, 1000000000) / 1e8,
		pick(i, 3, 100000) / 7.0, pick(i, 4, 2000000000) / 1e4, pick(i, 5, 4)
	from generate_series(%[1]d::bigint * 15, %[1]d::bigint * 15 + 149999) i;
`,
	},
	// What is compressed or encrypted already.
	"noise": {
		schema: helpers + `create table files (id bigint not null, content bytea not null);
alter table files alter content set storage external;
`,
		batch: `
insert into files select i, (select string_agg(sha512((i || ':' || j)::bytea), ''::bytea) from generate_series(1, 64 + pick(i, 1, 192)) j)
	from generate_series(%[1]d::bigint, %[1]d + 999) i;
`,
	},
	// Of which a tenth is the table. The rows come in no order of the indexes but one.
	"index": {
		schema: helpers + `create table keys (id bigint not null);
create index on keys (id);
create index on keys (md5(id::text));
create index on keys (public.prose(id, 5));
create index on keys (public.pick(id, 1, 100000), public.pick(id, 2, 1000));
create index on keys (public.pick(id, 3, 50));
`,
		batch: `
insert into keys select i from generate_series(%[1]d::bigint * 4, %[1]d::bigint * 4 + 39999) i;
`,
	},
}

// corpusNames gives the names of the parts in the order they are measured in.
func corpusNames() []string { return []string{"text", "json", "numbers", "noise", "index"} }

// fill generates data until the database has this size.
func (s *server) fill(ctx context.Context, m material, megabytes int64) error {
	if _, err := s.query(ctx, m.schema); err != nil {
		return err
	}
	for s.row = 0; ; {
		out, err := s.query(ctx, fmt.Sprintf(m.batch, s.row)+"select pg_database_size(current_database());")
		if err != nil {
			return err
		}
		s.row += batchRows
		size, err := strconv.ParseInt(out, 10, 64)
		if err != nil {
			return err
		}
		if size >= megabytes<<20 {
			return s.settle(ctx)
		}
	}
}

// settle leaves the cluster as one is that has run for a while. The second vacuum marks the rows that
// analyze has left in the catalogs as committed, or the first to read them would, after a backup.
func (s *server) settle(ctx context.Context) error {
	_, err := s.query(ctx, "vacuum analyze; vacuum; checkpoint;")
	return err
}

// change adds, changes and removes rows of mixed until so many bytes of WAL are written, and a
// segment more. The size of the database stays about the same.
func (s *server) change(ctx context.Context, bytes int64) error {
	const lives = 10 // batches
	begin, err := s.query(ctx, "select pg_current_wal_insert_lsn()")
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		sql := fmt.Sprintf(mixed.batch, s.row) + fmt.Sprintf(`
update orders set status = 'paid', amount = amount + 1 where id between %[1]d - 20000 and %[1]d and id %% 3 = 0;
delete from orders where id >= %[2]d and id < %[2]d + 10000;
delete from readings where taken >= '2024-01-01'::timestamptz + 3 * %[2]d * interval '1 second'
	and taken < '2024-01-01'::timestamptz + 3 * (%[2]d + 10000) * interval '1 second';
delete from documents where id >= %[2]d and id < %[2]d + 10000;
`, s.row, s.row-lives*batchRows)
		if n%lives == 0 {
			sql += "vacuum orders, readings, documents;"
		}
		s.row += batchRows
		out, err := s.query(ctx, sql+fmt.Sprintf("select pg_current_wal_insert_lsn() - '%s'::pg_lsn >= %d;", begin, bytes+segmentSize))
		if err != nil {
			return err
		}
		if strings.HasSuffix(out, "t") {
			return nil
		}
	}
}
