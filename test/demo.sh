#!/bin/bash
# Shows the main job on two throwaway hosts, which are network namespaces of this machine:
# db1 runs PostgreSQL, backup1 keeps the repository, and they talk over SSH. Archive, back
# up, lose the data directory and more, get everything back, and let the real pgbackrest
# look at the same repository. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."

pgx=$PWD/bin/pgx
B=/usr/lib/postgresql/15/bin
[ -x "$pgx" ] || { echo "demo: bin/pgx is missing: run make demo"; exit 1; }
[ -x $B/postgres ] || { echo "demo: PostgreSQL 15 is missing: run test/setup.sh demo"; exit 1; }
[ "$(id -u)" = 0 ] || { echo "demo: run as root: it makes network namespaces and runs servers as the user postgres"; exit 1; }

D=$(mktemp -d /tmp/pgx-demo.XXXXXX)
chmod 755 "$D"
net=10.78.$(($$ % 250)) # so that two demos do not meet
declare -A address=([backup1]=$net.1 [db1]=$net.2)
ns() { echo "pgxdemo$$-$1"; }
cp "$pgx" "$D/pgx"
chmod 755 "$D/pgx"
export PATH=$D:$PATH LC_ALL=C.UTF-8

finish() {
	local h
	for h in backup1 db1; do
		[ ! -f "$D/$h/data/postmaster.pid" ] || as $h $B/pg_ctl -D "$D/$h/data" -m immediate -w stop >/dev/null 2>&1 || true
		[ ! -f "$D/$h/sshd.pid" ] || kill "$(cat "$D/$h/sshd.pid")" 2>/dev/null || true
		ip netns del "$(ns $h)" 2>/dev/null || true
	done
	rm -rf "$D"
}
trap finish EXIT

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
# as HOST COMMAND...: on that host, as the user postgres, with that host's configuration.
as() {
	local h=$1
	shift
	ip netns exec "$(ns "$h")" runuser -u postgres -- \
		env "PGX_CONFIG=$D/$h/pgbackrest.conf" "PGX_SSH_CONFIG=$D/$h/ssh_config" "$@"
}
# run is as, and shows it.
run() {
	printf '%s%s$ %s%s\n' "$bold" "$1" "${*:2}" "$plain"
	as "$@"
}
quiet() { as "$@" >/dev/null; }
sql() { as db1 $B/psql -X -q -h "$D/db1" -U postgres -d shop -At "$@"; }
start() { quiet db1 $B/pg_ctl -D "$D/db1/data" -w -t 60 -l "$D/db1/server.log" start || { tail -20 "$D/db1/server.log"; exit 1; }; }
conf() { tee "$D/$1/pgbackrest.conf" | sed "s/^/    /"; }

step "Two hosts with sshd, and a key on each that the other lets in for its role only"
mkdir -p /run/sshd
for h in backup1 db1; do
	mkdir "$D/$h" "$D/$h/log"
	ip netns add "$(ns $h)"
	ssh-keygen -q -t ed25519 -N '' -C $h -f "$D/$h/host_key"
	ssh-keygen -q -t ed25519 -N '' -C postgres@$h -f "$D/$h/id"
	cat >"$D/$h/sshd_config" <<-C
		ListenAddress ${address[$h]}
		HostKey $D/$h/host_key
		PidFile $D/$h/sshd.pid
		AuthorizedKeysFile $D/$h/authorized_keys
		StrictModes no
		UsePAM no
		PasswordAuthentication no
	C
	cat >"$D/$h/ssh_config" <<-C
		Host *
		  IdentityFile $D/$h/id
		  UserKnownHostsFile $D/$h/known_hosts
		Host backup1
		  HostName ${address[backup1]}
		Host db1
		  HostName ${address[db1]}
	C
done
ip link add name d0 netns "$(ns backup1)" type veth peer name d0 netns "$(ns db1)"
for h in backup1 db1; do
	ip -n "$(ns $h)" addr add "${address[$h]}/24" dev d0
	ip -n "$(ns $h)" link set d0 up
	ip -n "$(ns $h)" link set lo up
	ip netns exec "$(ns $h)" /usr/sbin/sshd -f "$D/$h/sshd_config" -E "$D/$h/sshd.log"
done
echo "pgbackrest.conf of backup1:"
conf backup1 <<C
[global]
repo1-path=$D/backup1/repo
repo1-retention-full=2
compress-type=zst
process-max=2
start-fast=y
log-path=$D/backup1/log
lock-path=$D/backup1/lock
log-level-console=info

[demo]
pg1-host=db1
pg1-host-cmd=$D/pgx
pg1-host-config=$D/db1/pgbackrest.conf
pg1-path=$D/db1/data
C
echo "pgbackrest.conf of db1:"
conf db1 <<C
[global]
repo1-host=backup1
repo1-host-user=postgres
repo1-host-cmd=$D/pgx
repo1-host-config=$D/backup1/pgbackrest.conf
compress-type=zst
process-max=2
log-path=$D/db1/log
lock-path=$D/db1/lock
spool-path=$D/db1/spool
log-level-console=info

[demo]
pg1-path=$D/db1/data
pg1-socket-path=$D/db1
C
chown -R postgres "$D/backup1" "$D/db1"
for pair in "db1 backup1" "backup1 db1"; do
	read -r from to <<<"$pair"
	echo "${address[$to]} $(cut -d' ' -f1,2 "$D/$to/host_key.pub")" >"$D/$from/known_hosts"
	as "$from" pgx ssh-setup | grep ^restrict >"$D/$to/authorized_keys"
	echo "authorized_keys of $to: $(cut -c-150 "$D/$to/authorized_keys")..."
done

step "A cluster on db1, archiving with 'pgx archive-push %p'"
quiet db1 $B/initdb -D "$D/db1/data" -U postgres -A trust -k --locale=C.UTF-8 -E UTF8 --no-sync
as db1 tee -a "$D/db1/data/postgresql.conf" >/dev/null <<C
unix_socket_directories = '$D/db1'
listen_addresses = ''
archive_mode = on
archive_command = '$D/pgx archive-push %p'
C
start
run backup1 pgx ssh-setup --check
run db1 pgx ssh-setup --check
run backup1 pgx stanza-create
run db1 pgx check

step "Data, and a full backup from backup1 while it is written to"
as db1 $B/psql -X -q -h "$D/db1" -U postgres -d postgres -c 'create database shop'
quiet db1 $B/pgbench -h "$D/db1" -U postgres -i -s 10 -q shop
as db1 $B/pgbench -h "$D/db1" -U postgres -T 6 -n shop >/dev/null 2>&1 &
load=$!
run backup1 pgx backup --type=full
wait $load

step "More data, an accident, and the disaster"
sql -c "create table orders as select g as id, md5(g::text) as what from generate_series(1, 5000) g"
before=$(sql -c "select now()")
history=$(sql -c "select count(*) from pgbench_history")
sql -c "select pg_sleep(1.1)" >/dev/null
echo "it is $before: orders has $(sql -c 'select count(*) from orders') rows, pgbench_history $history"
sql -c "drop table orders"
sql -c "select pg_switch_wal()" >/dev/null
echo "and now: $(sql -c 'select count(*) from orders' 2>&1 || true)"
quiet db1 $B/pg_ctl -D "$D/db1/data" -m fast -w stop
run db1 rm -rf "$D/db1/data"

step "Restore on db1, to the moment before the accident"
run db1 pgx restore --type=time "--target=$before" --target-action=promote
start
for _ in $(seq 300); do
	[ "$(sql -c 'select pg_is_in_recovery()')" = f ] && break
	sql -c "select pg_sleep(0.1)" >/dev/null
done
echo "orders has $(sql -c 'select count(*) from orders') rows again, pgbench_history $(sql -c 'select count(*) from pgbench_history')"
[ "$(sql -c 'select count(*) from orders')" = 5000 ] || { echo "demo: the table is not back"; exit 1; }
[ "$(sql -c 'select count(*) from pgbench_history')" = "$history" ] || { echo "demo: rows are missing"; exit 1; }

step "What is in the repository, to pgx on db1 and to pgbackrest on backup1"
run db1 pgx info
if command -v pgbackrest >/dev/null; then
	run backup1 pgbackrest --config="$D/backup1/pgbackrest.conf" --stanza=demo info
fi
step "Done"
