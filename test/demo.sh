#!/bin/bash
# Shows the main job on a throwaway cluster: archive, back up, lose a table, get it
# back, and let the real pgbackrest look at the same repository. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."

pgx=$PWD/bin/pgx
B=/usr/lib/postgresql/15/bin
[ -x "$pgx" ] || { echo "demo: bin/pgx is missing: run make demo"; exit 1; }
[ -x $B/postgres ] || { echo "demo: PostgreSQL 15 is missing: run test/setup.sh demo"; exit 1; }

D=$(mktemp -d /tmp/pgx-demo.XXXXXX)
chmod 755 "$D"
port=$((20000 + $$ % 20000))
as=()
if [ "$(id -u)" = 0 ]; then
	as=(runuser -u postgres --)
	chown postgres "$D"
fi
cp "$pgx" "$D/pgx"
chmod 755 "$D/pgx"
export PATH=$D:$PATH LC_ALL=C.UTF-8

finish() {
	for data in "$D/data" "$D/restored"; do
		[ ! -f "$data/postmaster.pid" ] || "${as[@]}" $B/pg_ctl -D "$data" -m immediate -w stop >/dev/null 2>&1 || true
	done
	rm -rf "$D"
}
trap finish EXIT

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
run() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; "${as[@]}" "$@"; }
quiet() { "${as[@]}" "$@" >/dev/null; }
sql() { "${as[@]}" $B/psql -X -q -h "$D" -p "$port" -U postgres -d shop -At "$@"; }
start() { quiet $B/pg_ctl -D "$1" -w -t 60 -l "$D/server.log" start || { tail -20 "$D/server.log"; exit 1; }; }

step "A cluster, archiving with 'pgx archive-push %p'"
quiet $B/initdb -D "$D/data" -U postgres -A trust -k --locale=C.UTF-8 -E UTF8 --no-sync
"${as[@]}" tee -a "$D/data/postgresql.conf" >/dev/null <<C
port = $port
unix_socket_directories = '$D'
listen_addresses = ''
archive_mode = on
archive_command = '$D/pgx --config=$D/pgbackrest.conf archive-push %p'
C
"${as[@]}" tee "$D/pgbackrest.conf" <<C
[global]
repo1-path=$D/repo
repo1-retention-full=2
compress-type=zst
process-max=2
start-fast=y
log-path=$D/log
lock-path=$D/lock
log-level-console=info

[demo]
pg1-path=$D/data
pg1-port=$port
pg1-socket-path=$D
pg1-user=postgres
C
quiet mkdir -p "$D/repo" "$D/log"
start "$D/data"
run pgx --config="$D/pgbackrest.conf" stanza-create
run pgx --config="$D/pgbackrest.conf" check

step "Data, and a full backup while it is written to"
"${as[@]}" $B/psql -X -q -h "$D" -p "$port" -U postgres -d postgres -c 'create database shop'
quiet $B/pgbench -h "$D" -p "$port" -U postgres -i -s 10 -q shop
"${as[@]}" $B/pgbench -h "$D" -p "$port" -U postgres -T 6 -n shop >/dev/null 2>&1 &
load=$!
run pgx --config="$D/pgbackrest.conf" backup --type=full
wait $load

step "More data, then the accident"
sql -c "create table orders as select g as id, md5(g::text) as what from generate_series(1, 5000) g"
before=$(sql -c "select now()")
history=$(sql -c "select count(*) from pgbench_history")
sql -c "select pg_sleep(1.1)" >/dev/null
echo "it is $before: orders has $(sql -c 'select count(*) from orders') rows, pgbench_history $history"
sql -c "drop table orders"
sql -c "select pg_switch_wal()" >/dev/null
echo "and now: $(sql -c 'select count(*) from orders' 2>&1 || true)"

step "Restore beside it, to the moment before"
run pgx --config="$D/pgbackrest.conf" --stanza=demo --pg1-path="$D/restored" restore --type=time "--target=$before" --target-action=promote
quiet $B/pg_ctl -D "$D/data" -m fast -w stop
"${as[@]}" tee -a "$D/restored/postgresql.conf" >/dev/null <<C
archive_mode = off
C
start "$D/restored"
for _ in $(seq 300); do
	[ "$(sql -c 'select pg_is_in_recovery()')" = f ] && break
	sql -c "select pg_sleep(0.1)" >/dev/null
done
echo "orders has $(sql -c 'select count(*) from orders') rows again, pgbench_history $(sql -c 'select count(*) from pgbench_history')"
[ "$(sql -c 'select count(*) from orders')" = 5000 ] || { echo "demo: the table is not back"; exit 1; }
[ "$(sql -c 'select count(*) from pgbench_history')" = "$history" ] || { echo "demo: rows are missing"; exit 1; }

step "What is in the repository, to pgx and to pgbackrest"
run pgx --config="$D/pgbackrest.conf" info
if command -v pgbackrest >/dev/null; then
	run pgbackrest --config="$D/pgbackrest.conf" --stanza=demo info
fi
step "Done"
