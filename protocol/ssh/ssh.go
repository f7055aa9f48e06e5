// Package ssh starts a peer over SSH and hands back its standard streams. It is the client
// side only, and reads what a user of OpenSSH's own client has: ~/.ssh/config, keys,
// ssh-agent, known_hosts. Host keys are always checked.
//
// A Client starts the same command as often as it is asked to, each time in a session of its
// own. One connection carries no more bytes than one cipher stream and one window
// allow, so sessions get connections of their own until there are MaxConnections, and
// share them after that. Everything ends within Config.Timeout or when its context is
// cancelled, with an error that names user, host and port, the step, and what to do.
package ssh

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Host says where a peer is started, and how.
type Host struct {
	Name        string // as configured; the name that Host lines of ~/.ssh/config match
	User        string // empty: that of ~/.ssh/config, else DefaultUser
	DefaultUser string // empty: Config.User
	Port        int    // 0: that of ~/.ssh/config, else 22
	Command     string // for the shell there
	Option      string // the option Name came from, such as pg1-host, for hints
}

// Config says how to connect.
type Config struct {
	ConfigFile  string // in place of ~/.ssh/config; then it must be there
	Home        string // of the local user
	User        string // the local user
	AgentSocket string // of ssh-agent (SSH_AUTH_SOCK), empty for none

	// Timeout bounds Client.Open: the way through all hops, keys, and the start of the
	// command. 0 is a minute.
	Timeout time.Duration
	// Silence is how long the network may take to confirm what was sent before the
	// connection counts as lost. 0 is what the operating system thinks right.
	Silence time.Duration

	// MaxConnections is how many connections there are before sessions share them. 0 is 8.
	MaxConnections int

	Log *slog.Logger // nil for none
}

const (
	// maxLogins is how many connections log in at once: sshd starts to refuse some of
	// them when ten are at it (MaxStartups).
	maxLogins = 4
	// maxSessions is how many sessions share a connection; sshd allows ten (MaxSessions).
	maxSessions = 8
)

var (
	errTimeout = errors.New("time-out")
	errClosed  = errors.New("the client is closed")
)

// Client starts a command on one host. Its methods may be called from several goroutines.
type Client struct {
	host  Host
	c     Config
	route []hop // the last is the host itself
	err   error // why there is no route

	logins  chan struct{} // holds one for each connection that is logging in
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  []*conn
}

// conn is a connection, or one that is being made. What is not said otherwise belongs
// to Client.mu.
type conn struct {
	ready  chan struct{}           // closed when it is there or has failed
	cancel context.CancelCauseFunc // ends the attempt

	// Set before ready is closed:
	client    *secured
	err       error
	abandoned bool // err is that of a caller whose context has ended, nobody else's

	lost  chan struct{} // closed when it has ended, after cause is set
	cause error

	sessions int // that are open or being opened
	limit    int // of sessions
	retired  bool
}

// New makes a Client. What is wrong with the host's configuration is said by Open.
func New(h Host, c Config) *Client {
	if c.Timeout <= 0 {
		c.Timeout = time.Minute
	}
	if c.MaxConnections <= 0 {
		c.MaxConnections = 8
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	cl := &Client{host: h, c: c, logins: make(chan struct{}, maxLogins)}
	cl.route, cl.err = findRoute(h, c)
	return cl
}

// String gives user, host and port, such as "postgres@db1:22".
func (c *Client) String() string {
	if c.err != nil {
		return c.host.Name
	}
	return c.target().String()
}

func (c *Client) target() *hop { return &c.route[len(c.route)-1] }

// Open starts the command in a new session.
func (c *Client) Open(ctx context.Context) (*Channel, error) {
	if c.err != nil {
		return nil, c.err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.c.Timeout, errTimeout)
	defer cancel()
	for {
		cn, fresh, err := c.take(ctx)
		if err != nil {
			return nil, err
		}
		ch, err := c.start(ctx, cn)
		var refused *ssh.OpenChannelError
		switch {
		case err == nil:
			return ch, nil
		case errors.As(err, &refused) && c.crowded(cn):
			c.c.Log.Debug("connection takes no more sessions", "peer", c.String(), "reason", refused.Message)
		case errors.As(err, &refused):
			return nil, errs.WithHint(c.target().fail(stepStart, "the host opens no session: %s", printable(refused.Message)),
				"sshd's log there says why; is MaxSessions in its configuration at least 1?")
		case errors.Is(err, io.EOF) && !fresh: // it had died unnoticed, such as by a restart of sshd
			c.retire(cn)
		case errors.Is(err, io.EOF):
			return nil, errs.WithHint(c.target().fail(stepStart, "the host has closed the connection"), "sshd's log there says why")
		default:
			return nil, err
		}
	}
}

// take gives a connection with a session reserved on it, and whether it was made for this.
func (c *Client) take(ctx context.Context) (cn *conn, fresh bool, err error) {
	for {
		cn, fresh, err = c.choose()
		if err != nil {
			return nil, false, err
		}
		if fresh {
			c.connect(ctx, cn)
		} else {
			select {
			case <-cn.ready:
			case <-ctx.Done():
				c.release(cn)
				return nil, false, c.target().ended(ctx, stepConnect, c.c.Timeout)
			}
		}
		switch {
		case cn.err == nil:
			return cn, fresh, nil
		case fresh || !cn.abandoned:
			return nil, false, cn.err
		}
	}
}

// choose reserves a session: on a connection that has none, else on a new one, else on the one
// that has the fewest.
func (c *Client) choose() (cn *conn, fresh bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false, c.target().fail(stepConnect, "%w", errClosed)
	}
	usable := 0
	for _, other := range c.conns {
		if other.retired {
			continue
		}
		usable++
		if other.sessions < other.limit && (cn == nil || other.sessions < cn.sessions) {
			cn = other
		}
	}
	if cn == nil || cn.sessions > 0 && usable < c.c.MaxConnections {
		cn, fresh = &conn{ready: make(chan struct{}), lost: make(chan struct{}), limit: maxSessions}, true
		c.conns = append(c.conns, cn)
	}
	cn.sessions++
	return cn, fresh, nil
}

// connect makes the connection of cn and has it watched.
func (c *Client) connect(ctx context.Context, cn *conn) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.mu.Lock()
	cn.cancel = cancel
	if c.closed {
		cancel(errClosed)
	}
	c.mu.Unlock()

	clients, err := c.dial(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(cn.ready)
	if err == nil && c.closed {
		closeAll(clients)
		err = c.target().fail(stepConnect, "%w", errClosed)
	}
	if err != nil {
		cn.err, cn.abandoned = err, ctx.Err() != nil && context.Cause(ctx) != errTimeout
		c.forget(cn)
		return
	}
	cn.client = clients[len(clients)-1]
	c.running.Go(func() {
		cn.cause = cn.client.Wait()
		close(cn.lost)
		closeAll(clients)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forget(cn)
	})
}

// closeAll closes connections that lie in one another, and waits until they have ended.
func closeAll(clients []*secured) {
	for i := len(clients) - 1; i >= 0; i-- {
		_ = clients[i].Close() // it may have ended already
		_ = clients[i].Wait()
	}
}

// forget takes cn out of the connections. Client.mu is held.
func (c *Client) forget(cn *conn) {
	for i, other := range c.conns {
		if other == cn {
			c.conns = append(c.conns[:i], c.conns[i+1:]...)
			return
		}
	}
}

// release gives up a session on cn.
func (c *Client) release(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cn.sessions--
	if cn.retired && cn.sessions == 0 {
		_ = cn.client.Close() // it may have ended already
	}
}

// retire lets cn have no more sessions. It ends with its last.
func (c *Client) retire(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cn.retired = true
	if cn.sessions == 0 {
		_ = cn.client.Close() // it may have ended already
	}
}

// giveUp retires cn when the one session that is being opened on it gets no answer. Unless
// others use it, it is closed, so that nothing waits for that answer any longer.
func (c *Client) giveUp(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cn.retired = true
	if cn.sessions == 1 {
		_ = cn.client.Close() // it may have ended already
	}
}

// crowded notes that the other side has refused a session on cn, which the caller has
// given back. It says whether that can be because of other sessions.
func (c *Client) crowded(cn *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cn.sessions == 0 {
		return false
	}
	cn.limit = min(cn.limit, cn.sessions)
	return true
}

// Close ends all connections, and with them their sessions, and waits for that.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	for _, cn := range c.conns {
		if cn.client != nil {
			_ = cn.client.Close() // it may have ended already
		} else if cn.cancel != nil {
			cn.cancel(errClosed)
		}
	}
	c.mu.Unlock()
	c.running.Wait()
	return nil
}

// spawn runs f on a goroutine that Close waits for. It does nothing once the client is closed.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running.Go(f)
	return true
}
