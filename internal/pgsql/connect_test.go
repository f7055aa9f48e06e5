package pgsql_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/pgtest"
)

// Each way in which a connection fails has a message of its own, which names what was
// tried and says what to do.
func TestConnectErrors(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t, pgtest.Options{Major: 17})
	hba := "local all limited trust\nlocal all secret scram-sha-256\nlocal all peered peer\nlocal all shut reject\nlocal all all trust\n"
	if err := os.WriteFile(filepath.Join(cluster.PGDATA, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		t.Fatal(err)
	}
	cluster.Start()
	cluster.Exec(`create role "o'b" nologin; create role limited login connection limit 0; create role secret login password 'pw';
		create role peered login; create role shut login; create role plain login; create database closed;
		revoke connect on database closed from public;`)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := pgtest.Dir(t)
	for name, mode := range map[string]os.FileMode{"good": 0o600, "lax": 0o640} {
		text := fmt.Sprintf("# x\nother:*:*:*:no\n%s:%d:postgres:secret:pw\n", cluster.SocketDir, cluster.Port)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	socket := fmt.Sprintf("%s/.s.PGSQL.%d", cluster.SocketDir, cluster.Port)
	for _, c := range []struct {
		name string
		set  func(*pgsql.Params)
		want string // after "unable to connect to '…': "; empty is success
	}{
		{"all is well", func(*pgsql.Params) {}, ""},
		{
			"wrong port", func(p *pgsql.Params) { p.Port = 1 },
			"'" + cluster.SocketDir + "/.s.PGSQL.1' does not exist\nHINT: is PostgreSQL of port 1 running?\n" +
				fmt.Sprintf("HINT: '%s' has sockets of port %d: is pg-port right?", cluster.SocketDir, cluster.Port),
		},
		{
			"no server there", func(p *pgsql.Params) { p.SocketDir = dir },
			fmt.Sprintf("'%s/.s.PGSQL.%d' does not exist\nHINT: is PostgreSQL running?\n", dir, cluster.Port) +
				"HINT: pg-socket-path is a directory of the server's setting unix_socket_directories, pg-port its setting port",
		},
		{
			"no directory", func(p *pgsql.Params) { p.SocketDir = dir + "/missing" },
			"socket directory '" + dir + "/missing' cannot be read: no such file or directory\n" +
				"HINT: pg-socket-path is a directory of the server's setting unix_socket_directories, pg-port its setting port",
		},
		{
			"relative directory", func(p *pgsql.Params) { p.SocketDir = "x" },
			"socket directory 'x' is not an absolute path\n" +
				"HINT: set pg-socket-path to a directory of the server's setting unix_socket_directories",
		},
		{
			"abstract name", func(p *pgsql.Params) { p.SocketDir = "@pgx-test-nobody" },
			fmt.Sprintf("nobody listens on '@pgx-test-nobody/.s.PGSQL.%d'\nHINT: is PostgreSQL running?", cluster.Port),
		},
		{
			"no port", func(p *pgsql.Params) { p.Port = 0 },
			"port 0 is not from 1 to 65535\nHINT: set pg-port to the port of the server",
		},
		{
			"unknown user", func(p *pgsql.Params) { p.User = "no\"body" },
			"FATAL:  role \"no\"body\" does not exist\n" +
				"HINT: run as a superuser: CREATE ROLE \"no\"\"body\" LOGIN; (ALTER ROLE if it exists), or set pg-user to another role",
		},
		{
			"user that may not log in", func(p *pgsql.Params) { p.User = "o'b" },
			"FATAL:  role \"o'b\" is not permitted to log in\n" +
				"HINT: run as a superuser: CREATE ROLE \"o'b\" LOGIN; (ALTER ROLE if it exists), or set pg-user to another role",
		},
		{
			"unknown database", func(p *pgsql.Params) { p.Database = `a\'b c` },
			"FATAL:  database \"a\\'b c\" does not exist\nHINT: set pg-database to a database that exists",
		},
		{
			"database without grant", func(p *pgsql.Params) { p.User, p.Database = "plain", "closed" },
			"FATAL:  permission denied for database \"closed\" (User does not have CONNECT privilege.)\n" +
				"HINT: run as a superuser: GRANT CONNECT ON DATABASE \"closed\" TO \"plain\";",
		},
		{
			"peer of another name", func(p *pgsql.Params) { p.User = "peered" },
			"FATAL:  Peer authentication failed for user \"peered\"\n" +
				"HINT: pg_hba.conf decides: peer authentication wants the operating system's user '" + me.Username +
				"' to be named 'peered' too, or mapped in pg_ident.conf",
		},
		{
			"rejected", func(p *pgsql.Params) { p.User = "shut" },
			"FATAL:  pg_hba.conf rejects connection for host \"[local]\", user \"shut\", database \"postgres\", no encryption\n" +
				"HINT: pg_hba.conf decides: peer authentication wants the operating system's user '" + me.Username +
				"' to be named 'shut' too, or mapped in pg_ident.conf",
		},
		{
			"too many", func(p *pgsql.Params) { p.User = "limited" },
			"FATAL:  too many connections for role \"limited\"\nHINT: close sessions or raise max_connections",
		},
		{
			"no password", func(p *pgsql.Params) { p.User, p.PassFile = "secret", dir+"/missing" },
			"FATAL:  password authentication failed for user \"secret\"\n" +
				"HINT: is the password of user 'secret' in '" + dir + "/missing'?",
		},
		{
			"password file for others to read", func(p *pgsql.Params) { p.User, p.PassFile = "secret", dir+"/lax" },
			"FATAL:  password authentication failed for user \"secret\"\n" +
				fmt.Sprintf("HINT: '%s/lax' was not read because others may read it: chmod 0600 '%[1]s/lax'", dir),
		},
		{"password file", func(p *pgsql.Params) { p.User, p.PassFile = "secret", dir+"/good" }, ""},
		{"password", func(p *pgsql.Params) { p.User, p.Password = "secret", logging.NewSecret("pw") }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := superuser(cluster)
			c.set(&p)
			conn, err := pgsql.Connect(t.Context(), p)
			if err == nil {
				err = conn.Close(t.Context())
			}
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || errs.CodeOf(err) != errs.DbConnect || !strings.HasSuffix(err.Error(), "': "+c.want) ||
				!strings.HasPrefix(err.Error(), "unable to connect to 'dbname='") {
				t.Errorf("got [%d] %v\nwant %s", errs.CodeOf(err), err, c.want)
			}
		})
	}

	target := func(p pgsql.Params) string {
		return fmt.Sprintf("unable to connect to 'dbname='%s' port=%d user='%s' host='%s'': ", p.Database, p.Port, p.User, p.SocketDir)
	}
	p := superuser(cluster)
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := pgsql.Connect(ctx, p)
		wantError(t, err, errs.Term, "unable to connect to 'dbname='postgres' port="+fmt.Sprint(p.Port)+
			" user='postgres' host='"+p.SocketDir+"'': context canceled")
	})
	t.Run("shutting down", func(t *testing.T) {
		conn := connect(t, p)
		if err := syscall.Kill(cluster.Pid(), syscall.SIGTERM); err != nil { // waits for sessions
			t.Fatal(err)
		}
		pgtest.Eventually(t, "shutdown", func() bool { return strings.Contains(cluster.Log(), "smart shutdown") })
		_, err := pgsql.Connect(t.Context(), p)
		wantError(t, err, errs.DbConnect, target(p)+"FATAL:  the database system is shutting down\n"+
			"HINT: wait until PostgreSQL takes connections; a standby takes them with hot_standby = on")
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
		pgtest.Eventually(t, "end of the server", func() bool { return !cluster.Running() })
	})
	t.Run("down", func(t *testing.T) {
		_, err := pgsql.Connect(t.Context(), p)
		wantError(t, err, errs.DbConnect, target(p)+"'"+socket+"' does not exist\nHINT: is PostgreSQL running?\n"+
			"HINT: pg-socket-path is a directory of the server's setting unix_socket_directories, pg-port its setting port")
	})
	t.Run("crashed", func(t *testing.T) {
		cluster.Start()
		cluster.Kill()
		_, err := pgsql.Connect(t.Context(), p)
		wantError(t, err, errs.DbConnect, target(p)+"nobody listens on '"+socket+"'\n"+
			"HINT: start PostgreSQL: it is down, and left this socket behind")
	})
}

// The environment does not lead to another server and does not break the session.
func TestEnvironmentIsIgnored(t *testing.T) {
	cluster := pgtest.New(t, pgtest.Options{})
	cluster.Start()
	for name, value := range map[string]string{
		"PGHOST": "/nowhere", "PGPORT": "x", "PGUSER": "nobody", "PGDATABASE": "none", "PGPASSWORD": "x", "PGPASSFILE": "/x",
		"PGOPTIONS": "-c nothing=1", "PGSSLMODE": "verify-full", "PGSSLCERTMODE": "x", "PGSSLROOTCERT": "/x", "PGSSLKEY": "/x",
		"PGTARGETSESSIONATTRS": "standby", "PGCONNECT_TIMEOUT": "x", "PGAPPNAME": "x", "PGTZ": "Nowhere/None",
		"PGCHANNELBINDING": "require", "PGREQUIREAUTH": "oauth", "PGMINPROTOCOLVERSION": "9", "PGMAXPROTOCOLVERSION": "9",
		"PGSSLNEGOTIATION": "direct",
	} {
		t.Setenv(name, value)
	}
	conn := connect(t, superuser(cluster))
	if _, err := conn.Facts(t.Context()); err != nil {
		t.Error(err)
	}
	if sessionPID(cluster) == 0 {
		t.Error("the session does not have its name")
	}
	t.Setenv("PGSERVICE", "none")
	_, err := pgsql.Connect(t.Context(), superuser(cluster))
	if errs.CodeOf(err) != errs.DbConnect ||
		!strings.HasSuffix(err.Error(), "': environment variable PGSERVICE names a service that cannot be read, unset it") {
		t.Errorf("got %v", err)
	}
}

// A pooler is refused in whatever mode it works, for a superuser and for a role that may
// not see the data directory.
func TestPoolerIsRefused(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t, pgtest.Options{})
	cluster.Start()
	cluster.Exec("create role plain login")
	for _, mode := range []string{"session", "transaction"} {
		dir, port := bouncer(t, cluster, mode)
		for _, name := range []string{"postgres", "plain"} {
			p := superuser(cluster)
			p.SocketDir, p.Port, p.User = dir, port, name
			_, err := pgsql.Connect(t.Context(), p)
			if errs.CodeOf(err) != errs.DbConnect || !strings.Contains(err.Error(), fmt.Sprintf(
				"': '%s/.s.PGSQL.%d' is answered by 'pgbouncer' (process ", dir, port)) ||
				!strings.HasSuffix(err.Error(), "), not by PostgreSQL itself: a backup cannot go through a connection pooler\n"+
					"HINT: set pg-port and pg-socket-path to those of the PostgreSQL server") {
				t.Errorf("%s, %s: got [%d] %v", mode, name, errs.CodeOf(err), err)
			}
		}
	}
}

// bouncer starts pgbouncer in front of a cluster and gives its socket directory and port.
func bouncer(t *testing.T, cluster *pgtest.Cluster, mode string) (dir string, port int) {
	t.Helper()
	dir = pgtest.Dir(t)
	port = 6432
	for name, text := range map[string]string{
		"users": "\"postgres\" \"\"\n\"plain\" \"\"\n",
		"ini": fmt.Sprintf("[databases]\npostgres = host=%s port=%d\n[pgbouncer]\nlisten_addr =\nlisten_port = %d\n"+
			"unix_socket_dir = %s\nauth_type = trust\nauth_file = %[4]s/users\npool_mode = %s\n",
			cluster.SocketDir, cluster.Port, port, dir, mode),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := pgtest.Command(t, pgtest.Bouncer(t), "-q", filepath.Join(dir, "ini"))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		_ = log.Close()
	})
	pgtest.Eventually(t, "start of pgbouncer", func() bool {
		c, err := net.Dial("unix", fmt.Sprintf("%s/.s.PGSQL.%d", dir, port))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return dir, port
}

// A pooler that hands the server's cancel key through is known by the socket: here
// a program that passes all bytes on.
func TestProxyIsRefused(t *testing.T) {
	t.Parallel()
	cluster := pgtest.New(t, pgtest.Options{})
	cluster.Start()
	cluster.Exec("create role plain login")
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{pgtest.Dir(t), fmt.Sprintf("@pgx-test-%d", os.Getpid())} {
		proxy(t, fmt.Sprintf("%s/.s.PGSQL.%d", dir, cluster.Port), fmt.Sprintf("%s/.s.PGSQL.%d", cluster.SocketDir, cluster.Port))
		for _, name := range []string{"postgres", "plain"} {
			p := superuser(cluster)
			p.SocketDir, p.User = dir, name
			_, err := pgsql.Connect(t.Context(), p)
			want := fmt.Sprintf("is answered by '%s' (process %d), not by PostgreSQL itself", strings.TrimSpace(string(comm)), os.Getpid())
			if errs.CodeOf(err) != errs.DbConnect || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: got [%d] %v", dir, name, errs.CodeOf(err), err)
			}
		}
	}
}

// A server in a container is not taken for a pooler because it counts its processes
// in another way, whether its data directory can be seen or not.
func TestServerInContainer(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can make a process name space")
	}
	cluster := pgtest.New(t, pgtest.Options{})
	cluster.Start()
	cluster.Exec("create role plain login")
	cluster.Stop(pgtest.Fast)
	cmd := pgtest.Command(t, filepath.Join(cluster.BinDir, "postgres"), "-D", cluster.PGDATA, "-p", fmt.Sprint(cluster.Port), "-k", cluster.SocketDir)
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		_ = cmd.Wait()
	})
	for _, name := range []string{"postgres", "plain"} {
		p := superuser(cluster)
		p.User = name
		pgtest.Eventually(t, "connection as "+name, func() bool {
			conn, err := pgsql.Connect(t.Context(), p)
			if err != nil {
				// The socket is there before the server listens on it.
				if !strings.Contains(err.Error(), "does not exist") && !strings.Contains(err.Error(), "nobody listens") &&
					!strings.Contains(err.Error(), "starting up") {
					t.Fatal(err)
				}
				return false
			}
			return conn.Close(t.Context()) == nil
		})
	}
}

func proxy(t *testing.T, from, to string) {
	t.Helper()
	l, err := net.Listen("unix", from)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", to)
			if err != nil {
				t.Error(err)
				_ = client.Close()
				return
			}
			for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
				running.Go(func() {
					_, _ = io.Copy(pair[1], pair[0])
					_ = pair[0].Close()
					_ = pair[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
}

// What listens and is no PostgreSQL is said to be none.
func TestNotPostgreSQL(t *testing.T) {
	dir := pgtest.Dir(t)
	l, err := net.Listen("unix", dir+"/.s.PGSQL.5432")
	if err != nil {
		t.Fatal(err)
	}
	var answer sync.WaitGroup
	answer.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		_ = c.Close()
	})
	_, err = pgsql.Connect(t.Context(), pgsql.Params{SocketDir: dir, Port: 5432, User: "x", Database: "y", Timeout: time.Minute})
	if errs.CodeOf(err) != errs.DbConnect || !strings.Contains(err.Error(), "does not answer as PostgreSQL does: ") {
		t.Errorf("got [%d] %v", errs.CodeOf(err), err)
	}
	_ = l.Close()
	answer.Wait()
}
