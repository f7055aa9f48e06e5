// Package pgsql is the conversation with a running PostgreSQL server: facts about the
// cluster, the start and the stop of a backup, restore points, WAL switches. No
// other package imports a PostgreSQL driver.
//
// A Conn is one connection over the server's own socket, held from the start of a
// backup to its stop: a backup lives as long as the session that began it. So a
// connection pooler in between is refused, every time-out of the server is
// off, and every name in a statement is qualified. Statements go by the simple protocol
// and nothing is prepared.
package pgsql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
)

// Params says which server to connect to, and as whom. Nothing is taken from the
// environment: of the variables libpq knows, PGHOST and its like could lead to
// another cluster than the one that is configured.
type Params struct {
	// SocketDir is the directory of the server's socket (option pg-socket-path), or
	// an abstract name that begins with '@'. Empty is where servers put it by
	// default: /var/run/postgresql or, if no socket of this port is there, /tmp.
	SocketDir string
	Port      int    // names the socket
	User      string // empty is the name of the operating system's user
	Database  string // grants on functions are valid in one database only

	// Password is tried first, then PassFile, a file in libpq's form (.pgpass); for a
	// socket its entries name the host as the directory or as localhost. An empty
	// PassFile is .pgpass in the home directory of the operating system's user.
	// As with libpq a file that others may read is left alone.
	Password logging.Secret
	PassFile string

	// Timeout is the longest a statement may take (option db-timeout), the start of
	// a backup with its checkpoint included. 0 is for ever.
	Timeout time.Duration

	// Application is the name the session has in pg_stat_activity and in the
	// server's log, such as "pgBackRest [backup]".
	Application string
}

const (
	// connectTimeout bounds connecting: PostgreSQL itself gives up after a minute.
	connectTimeout = time.Minute
	// cancelTimeout is how long a cancelled statement may take to end before the
	// connection is given up.
	cancelTimeout = 5 * time.Second
	// closeTimeout is how long the server may take to end the session.
	closeTimeout = 5 * time.Second
)

// Conn is a session with a PostgreSQL server. It is for one goroutine at a time. Whoever
// connects must Close, whatever happened in between.
type Conn struct {
	pg         *pgconn.PgConn
	dialer     *dialer
	database   string
	user       string
	timeout    time.Duration
	version    int // server_version_num
	inRecovery bool
}

// dialer connects to one socket, whatever the driver thinks the address is, and
// remembers its connections: the session and the cancel requests beside it.
type dialer struct {
	socket string

	mu   sync.Mutex
	open []net.Conn
}

func (d *dialer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var nd net.Dialer
	c, err := nd.DialContext(ctx, "unix", d.socket)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = append(d.open, c)
	return c, nil
}

func (d *dialer) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.open {
		_ = c.Close()
	}
}

// Connect opens a session and prepares it for a backup. What goes wrong is
// errs.DbConnect with the database, user, port and socket directory, and with what to
// do about it.
func Connect(ctx context.Context, p Params) (*Conn, error) {
	target, err := resolve(p)
	if err != nil {
		return nil, err
	}
	config, err := target.config(p)
	if err != nil {
		return nil, target.failed(err)
	}
	c := &Conn{dialer: &dialer{socket: target.socket}, database: p.Database, user: target.user, timeout: p.Timeout}
	config.DialFunc = c.dialer.dial
	config.BuildContextWatcherHandler = func(pg *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: pg, DeadlineDelay: cancelTimeout}
	}

	limit := connectTimeout
	if p.Timeout > 0 {
		limit = min(limit, p.Timeout)
	}
	connecting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c.pg, err = pgconn.ConnectConfig(connecting, config)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, errs.WrapAs(errs.DbConnect, ctx.Err(), "unable to connect to '%s'", target)
	case connecting.Err() != nil:
		return nil, errs.WithHint(target.fail("no answer from '%s' within %s", target.socket, limit),
			"is PostgreSQL overloaded or stopped by a signal?")
	default:
		return nil, target.explain(err)
	}

	if err := c.prepare(ctx, target); err != nil {
		_ = c.Close(ctx)
		return nil, err
	}
	return c, nil
}

// session is what a session is set to. A name that this version of the server does
// not have is left out.
const session = "select pg_catalog.set_config(want.name, want.value, false) from (values" +
	" ('search_path', 'pg_catalog')," + // no function of ours is another's
	" ('statement_timeout', '0'), ('lock_timeout', '0'), ('transaction_timeout', '0')," +
	" ('idle_in_transaction_session_timeout', '0'), ('idle_session_timeout', '0')," +
	// The stop of a backup must run in the process that started it.
	" ('max_parallel_workers_per_gather', '0')," +
	" ('standard_conforming_strings', 'on')," +
	// A server in the middle of the start of a backup notices that we are gone.
	" ('client_connection_check_interval', '10s')" +
	") as want(name, value) join pg_catalog.pg_settings on pg_settings.name = want.name"

func (c *Conn) prepare(ctx context.Context, t target) error {
	if _, err := c.query(ctx, session); err != nil {
		return err
	}
	row, err := c.queryRow(ctx, "select pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(),"+
		" (select setting from pg_catalog.pg_settings where name = 'server_version_num'),"+
		" (select setting from pg_catalog.pg_settings where name = 'data_directory')")
	if err != nil {
		return err
	}
	backend := int(row.int())
	c.inRecovery = row.bool()
	c.version = int(row.int())
	dataDirectory := row.text() // "" for a user that may not read it
	if row.err != nil {
		return row.err
	}
	return c.refusePooler(t, backend, dataDirectory)
}

// Close ends the session. A backup that was started on it and not stopped is ended by
// the server, which has left backup mode when Close returns nil. It takes no longer
// than a few seconds and works when ctx is cancelled; statements under way in other
// goroutines must be cancelled first. A second Close does nothing.
func (c *Conn) Close(ctx context.Context) error {
	if c.pg == nil {
		return nil
	}
	pg := c.pg
	c.pg = nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	defer c.dialer.closeAll()

	if pg.IsClosed() { // by the driver, which cancels and cleans up on its own
		select {
		case <-pg.CleanupDone():
			return nil
		case <-ctx.Done():
			c.dialer.closeAll()
			<-pg.CleanupDone()
			return c.notEnded(pg.PID(), ctx.Err())
		}
	}
	// The driver's own Close does not wait. Reading until the server closes its end
	// is what proves that the session, and its backup, is over.
	h, err := pg.Hijack()
	if err != nil {
		return c.notEnded(pg.PID(), err)
	}
	deadline, _ := ctx.Deadline()
	if err := h.Conn.SetDeadline(deadline); err != nil {
		return c.notEnded(h.PID, err)
	}
	h.Frontend.Send(&pgproto3.Terminate{})
	if err := h.Frontend.Flush(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		return nil // nobody is there to read it: the session has ended before
	}
	if _, err := io.Copy(io.Discard, h.Conn); isTimeout(err) {
		return c.notEnded(h.PID, err)
	}
	return nil
}

func (c *Conn) notEnded(pid uint32, err error) error {
	return errs.WithHint(
		errs.New(errs.DbQuery, "PostgreSQL process %d did not end its session within %s: %w", pid, closeTimeout, err),
		"a backup it was in ends with the process: look for it in pg_stat_activity")
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// query runs one statement and gives its rows. needs are the functions in it that not
// everybody may execute, with their argument types: what an operator has to grant.
func (c *Conn) query(ctx context.Context, sql string, needs ...string) ([]*row, error) {
	if c.pg == nil {
		return nil, errs.New(errs.DbQuery, "unable to execute query '%s': the connection is closed", sql)
	}
	limited, cancel := ctx, context.CancelFunc(func() {})
	if c.timeout > 0 {
		limited, cancel = context.WithTimeout(ctx, c.timeout)
	}
	defer cancel()
	results, err := c.pg.Exec(limited, sql).ReadAll()
	if err != nil {
		return nil, c.queryFailed(ctx, limited, sql, needs, err)
	}
	var rows []*row
	for _, r := range results {
		for _, cells := range r.Rows {
			rows = append(rows, &row{sql: sql, cells: cells})
		}
	}
	return rows, nil
}

// queryRow is query for a statement that gives one row.
func (c *Conn) queryRow(ctx context.Context, sql string, needs ...string) (*row, error) {
	rows, err := c.query(ctx, sql, needs...)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, errs.New(errs.DbQuery, "expected one row from '%s', got %d", sql, len(rows))
	}
	return rows[0], nil
}

func (c *Conn) queryFailed(ctx, limited context.Context, sql string, needs []string, err error) error {
	var server *pgconn.PgError
	isServer := errors.As(err, &server)
	switch {
	case ctx.Err() != nil:
		return errs.WrapAs(errs.DbQuery, ctx.Err(), "unable to complete query '%s'", sql)
	case limited.Err() != nil:
		return errs.WithHint(errs.New(errs.DbQuery, "query '%s' timed out after %dms", sql, c.timeout.Milliseconds()),
			"option db-timeout says how long a query may take")
	case isServer && server.Code == "42501" && len(needs) > 0: // insufficient_privilege
		return c.grantHints(errs.New(errs.DbQuery, "unable to execute query '%s': %s", sql, serverText(server)), needs)
	case isServer && server.Severity != "FATAL" && server.Severity != "PANIC" && !strings.HasPrefix(server.Code, "57P"):
		out := error(errs.New(errs.DbQuery, "unable to execute query '%s': %s", sql, serverText(server)))
		if server.Hint != "" {
			out = errs.WithHint(out, "%s", server.Hint)
		}
		return out
	case isServer:
		err = errors.New(serverText(server))
	default:
		err = root(err)
	}
	out := error(errs.New(errs.DbQuery, "unable to complete query '%s', the connection to PostgreSQL was lost: %w", sql, err))
	return errs.WithHint(out, "look in the PostgreSQL log for a crash, a restart or a session that was terminated")
}

// serverText gives what the server said in libpq's form, which operators search for.
func serverText(e *pgconn.PgError) string {
	s := e.Severity + ":  " + e.Message
	if e.Detail != "" {
		s += " (" + e.Detail + ")"
	}
	return s
}

// grantHints adds what a superuser has to run for the functions.
func (c *Conn) grantHints(err error, functions []string) error {
	for _, f := range functions {
		err = errs.WithHint(err, "run as a superuser in database '%s': GRANT EXECUTE ON FUNCTION pg_catalog.%s TO %s;",
			c.database, f, quoteIdent(c.user))
	}
	return err
}

func quoteIdent(s string) string   { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
func quoteLiteral(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }

// row takes the values of a result row apart, column by column. The first that cannot
// be read stays in err; those after it are zero.
type row struct {
	sql   string
	cells [][]byte
	next  int
	err   error
}

func (r *row) cell() []byte {
	if r.err == nil && r.next >= len(r.cells) {
		r.err = errs.New(errs.Format, "expected more than %d columns from '%s'", len(r.cells), r.sql)
	}
	if r.err != nil {
		return nil
	}
	r.next++
	return r.cells[r.next-1]
}

// text gives a text; null is "".
func (r *row) text() string { return string(r.cell()) }

func (r *row) bool() bool {
	v := r.text()
	if r.err == nil && v != "t" && v != "f" {
		r.bad(v, "a boolean")
	}
	return v == "t"
}

func (r *row) int() int64 {
	v := r.text()
	n, err := strconv.ParseInt(v, 10, 64)
	if r.err == nil && err != nil {
		r.bad(v, "a number")
	}
	return n
}

// time reads microseconds since 1970.
func (r *row) time() time.Time { return time.UnixMicro(r.int()) }

func (r *row) bad(v, want string) {
	r.err = errs.New(errs.Format, "column %d of '%s' is '%s', not %s", r.next, r.sql, v, want)
}

// microseconds is SQL for a point in time as row.time reads it. Before PostgreSQL 14
// an epoch is a double, whose 53 bits are enough.
func microseconds(expression string) string {
	return fmt.Sprintf("(extract(epoch from %s) * 1000000)::pg_catalog.int8", expression)
}
