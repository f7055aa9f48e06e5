package pgsql

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgpassfile"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgx-backup/pgx/internal/errs"
)

// target is where Connect goes, with nothing left open.
type target struct {
	dir      string // the socket's directory, as an operator names it
	socket   string // the socket's path, or the abstract name
	port     int
	user     string
	database string
	osUser   string
	passFile string
	laxFile  bool // the password file was left alone: others may read it
}

// defaultSocketDirs are where servers of Debian and Red Hat and servers built from
// source put their sockets when they are told nothing.
func defaultSocketDirs() []string { return []string{"/var/run/postgresql", "/tmp"} }

func resolve(p Params) (target, error) {
	t := target{dir: p.SocketDir, port: p.Port, user: p.User, database: p.Database, passFile: p.PassFile}
	home := ""
	if u, err := user.Current(); err == nil {
		t.osUser, home = u.Username, u.HomeDir
	}
	if t.user == "" {
		t.user = t.osUser
	}
	if t.passFile == "" && home != "" {
		t.passFile = filepath.Join(home, ".pgpass")
	}
	name := ".s.PGSQL." + strconv.Itoa(p.Port)
	if t.dir == "" {
		t.dir = defaultSocketDirs()[0]
		for _, dir := range defaultSocketDirs() {
			if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
				t.dir = dir
				break
			}
		}
	}
	t.socket = t.dir + "/" + name
	switch {
	case p.Port < 1 || p.Port > 65535:
		return t, errs.WithHint(t.fail("port %d is not from 1 to 65535", p.Port), "set pg-port to the port of the server")
	case t.user == "":
		return t, errs.WithHint(t.fail("no user is given and the operating system's has no name"), "set pg-user")
	case !filepath.IsAbs(t.dir) && !strings.HasPrefix(t.dir, "@"):
		return t, errs.WithHint(t.fail("socket directory '%s' is not an absolute path", t.dir),
			"set pg-socket-path to a directory of the server's setting unix_socket_directories")
	}
	return t, nil
}

// String gives the target as libpq would be told it.
func (t target) String() string {
	return fmt.Sprintf("dbname=%s port=%d user=%s host=%s", connValue(t.database), t.port, connValue(t.user), connValue(t.dir))
}

// connValue quotes a value of a connection string.
func connValue(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// config makes the driver's configuration. Every keyword that the driver would else
// take from the environment is given, so that none is.
func (t *target) config(p Params) (*pgconn.Config, error) {
	settings := []string{
		"host='/'", // a socket; which one, the dialer knows
		"port=" + strconv.Itoa(t.port),
		"user=" + connValue(t.user),
		"dbname=" + connValue(t.database),
		"password=" + connValue(t.password(p)),
		"passfile=/dev/null", "sslmode=disable", "sslcertmode=allow", "sslnegotiation=postgres",
		"connect_timeout=0", "target_session_attrs=any", "channel_binding=prefer", "require_auth=''",
		"min_protocol_version=3.0", "max_protocol_version=3.0",
	}
	config, err := pgconn.ParseConfig(strings.Join(settings, " "))
	if err != nil {
		// Only a service is looked up before our settings win; the driver's text would
		// show the password.
		return nil, errors.New("environment variable PGSERVICE names a service that cannot be read, unset it")
	}
	config.RuntimeParams = map[string]string{"client_encoding": "UTF8"}
	if p.Application != "" {
		config.RuntimeParams["application_name"] = p.Application
	}
	return config, nil
}

func (t *target) password(p Params) string {
	if s := p.Password.Reveal(); s != "" {
		return s
	}
	info, err := os.Stat(t.passFile)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	if info.Mode().Perm()&0o077 != 0 {
		t.laxFile = true
		return ""
	}
	file, err := pgpassfile.ReadPassfile(t.passFile)
	if err != nil {
		return ""
	}
	for _, host := range []string{t.dir, "localhost"} {
		if s := file.FindPassword(host, strconv.Itoa(t.port), t.database, t.user); s != "" {
			return s
		}
	}
	return ""
}

func (t target) fail(format string, args ...any) error {
	return t.failed(fmt.Errorf(format, args...))
}

func (t target) failed(err error) error {
	return errs.New(errs.DbConnect, "unable to connect to '%s': %w", t, err)
}

// explain says what a failed attempt to connect means and what to do.
func (t target) explain(err error) error {
	var server *pgconn.PgError
	var op *net.OpError
	switch {
	case errors.As(err, &server):
		return t.explainRefusal(server)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED) && strings.HasPrefix(t.dir, "@"):
		return t.explainMissing()
	case errors.Is(err, syscall.ECONNREFUSED):
		return errs.WithHint(t.fail("nobody listens on '%s'", t.socket),
			"start PostgreSQL: it is down, and left this socket behind")
	case errors.Is(err, syscall.EACCES):
		return errs.WithHint(t.fail("user '%s' may not use '%s'", t.osUser, t.socket),
			"run as the user that owns the cluster, or see unix_socket_permissions of the server")
	case errors.As(err, &op) && op.Op == "dial":
		return t.fail("'%s': %w", t.socket, op.Err)
	}
	// Not the server's words: what listens does not speak its protocol, or ended.
	return errs.WithHint(t.fail("'%s' does not answer as PostgreSQL does: %w", t.socket, root(err)),
		"is this PostgreSQL's socket, and what does the PostgreSQL log say?")
}

// root takes off what the driver wraps around an error: all of it is in our words.
func root(err error) error {
	for {
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			if u.Unwrap() == nil {
				return err
			}
			err = u.Unwrap()
		case interface{ Unwrap() []error }:
			if len(u.Unwrap()) == 0 {
				return err
			}
			err = u.Unwrap()[0]
		default:
			return err
		}
	}
}

func (t target) explainMissing() error {
	if strings.HasPrefix(t.dir, "@") {
		return errs.WithHint(t.fail("nobody listens on '%s'", t.socket), "is PostgreSQL running?")
	}
	const where = "pg-socket-path is a directory of the server's setting unix_socket_directories, pg-port its setting port"
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return errs.WithHint(t.fail("socket directory '%s' cannot be read: %w", t.dir, errors.Unwrap(err)), where)
	}
	var ports []int
	for _, e := range entries {
		if n, ok := strings.CutPrefix(e.Name(), ".s.PGSQL."); ok {
			if port, err := strconv.Atoi(n); err == nil {
				ports = append(ports, port)
			}
		}
	}
	sort.Ints(ports)
	failed := t.fail("'%s' does not exist", t.socket)
	if len(ports) == 0 {
		return errs.WithHint(errs.WithHint(failed, "is PostgreSQL running?"), where)
	}
	return errs.WithHint(errs.WithHint(failed, "is PostgreSQL of port %d running?", t.port),
		"'%s' has sockets of port %s: is pg-port right?", t.dir,
		strings.Trim(strings.ReplaceAll(fmt.Sprint(ports), " ", ", "), "[]"))
}

func (t target) explainRefusal(e *pgconn.PgError) error {
	failed := t.fail("%s", serverText(e))
	switch e.Code {
	case "28000": // invalid_authorization_specification
		if e.Routine == "InitializeSessionUserId" { // the role: missing, or not permitted to log in
			return errs.WithHint(failed,
				"run as a superuser: CREATE ROLE %[1]s LOGIN; (ALTER ROLE if it exists), or set pg-user to another role",
				quoteIdent(t.user))
		}
		return errs.WithHint(failed,
			"pg_hba.conf decides: peer authentication wants the operating system's user '%s' to be named '%s' too, or mapped in pg_ident.conf",
			t.osUser, t.user)
	case "28P01": // invalid_password
		if t.laxFile {
			return errs.WithHint(failed, "'%s' was not read because others may read it: chmod 0600 '%[1]s'", t.passFile)
		}
		return errs.WithHint(failed, "is the password of user '%s' in '%s'?", t.user, t.passFile)
	case "3D000": // invalid_catalog_name; a pooler has it too
		return errs.WithHint(failed, "set pg-database to a database that exists")
	case "42501": // insufficient_privilege
		return errs.WithHint(failed, "run as a superuser: GRANT CONNECT ON DATABASE %s TO %s;", quoteIdent(t.database), quoteIdent(t.user))
	case "57P03": // cannot_connect_now
		return errs.WithHint(failed, "wait until PostgreSQL takes connections; a standby takes them with hot_standby = on")
	case "53300": // too_many_connections
		return errs.WithHint(failed, "close sessions or raise max_connections")
	case "08P01": // protocol_violation: what pgbouncer says to everything it does not like
		return errs.WithHint(failed,
			"is this the socket of a connection pooler? pg-socket-path and pg-port must be those of PostgreSQL itself")
	}
	return failed
}
