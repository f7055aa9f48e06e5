package ssh

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol/tcp"
)

// The steps towards a peer, as errors name them.
const (
	stepResolve = "resolve"
	stepConnect = "connect"
	stepHostKey = "host key"
	stepLogin   = "log in"
	stepStart   = "start the command"
)

// fail says which step towards the hop went wrong.
func (h *hop) fail(step, format string, args ...any) *errs.Error {
	e := errs.New(errs.HostConnect, format, args...)
	e.Message = h.label + ": " + step + ": " + e.Message
	return e
}

// ended says what it means that ctx has ended in a step.
func (h *hop) ended(ctx context.Context, step string, limit time.Duration) error {
	cause := context.Cause(ctx)
	if cause != errTimeout {
		return errs.WrapAs(errs.HostConnect, cause, "%s: %s", h.label, step)
	}
	e := h.fail(step, "no answer within %s", limit)
	switch step {
	case stepResolve, stepConnect:
		return errs.WithHint(e, "is the host up, and does a firewall let port %d through? %s", h.port, h.where())
	case stepHostKey, stepLogin:
		return errs.WithHint(e, "the host is there but does not finish the login; its load and sshd's log there may say why")
	}
	return e
}

// where says which options lead to this hop.
func (h *hop) where() string {
	if h.between {
		return "ProxyJump and what ~/.ssh/config has for '" + h.alias + "' say where it is"
	}
	return "options " + h.option + " and " + h.option + "-port say where it is"
}

const (
	// maxTries is how often a connection is tried that the server closes before it has said
	// anything. That is what sshd does at random when too many log in (MaxStartups).
	maxTries = 5
	// firstPause is doubled from one try to the next.
	firstPause = 100 * time.Millisecond
)

// dial connects and logs in along the route. It gives all the connections on it.
func (c *Client) dial(ctx context.Context) ([]*secured, error) {
	select {
	case c.logins <- struct{}{}:
		defer func() { <-c.logins }()
	case <-ctx.Done():
		return nil, c.target().ended(ctx, stepConnect, c.c.Timeout)
	}
	var clients []*secured
	for i := range c.route {
		var via *secured
		if i > 0 {
			via = clients[i-1]
		}
		client, err := c.login(ctx, &c.route[i], via)
		if err != nil {
			closeAll(clients)
			return nil, err
		}
		clients = append(clients, client)
	}
	return clients, nil
}

// login makes one connection, through via unless that is nil.
func (c *Client) login(ctx context.Context, h *hop, via *secured) (*secured, error) {
	known, err := openKnownHosts(h)
	if err != nil {
		return nil, err
	}
	ids, err := findKeys(ctx, h, c.c.AgentSocket)
	if err != nil {
		return nil, err
	}
	defer ids.close()
	pause := firstPause
	for try := 1; ; try++ {
		nc, err := c.dialHop(ctx, h, via)
		if err != nil {
			return nil, err
		}
		client, dropped, err := c.handshake(ctx, h, nc, known, ids)
		if !dropped || try == maxTries {
			return client, err
		}
		c.c.Log.Debug("connection dropped before the greeting", "peer", h.String(), "try", try)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, h.ended(ctx, stepConnect, c.c.Timeout)
		}
		pause *= 2
	}
}

// dialHop makes the connection under that of SSH.
func (c *Client) dialHop(ctx context.Context, h *hop, via *secured) (net.Conn, error) {
	if via != nil {
		nc, err := via.DialContext(ctx, "tcp", h.address())
		var refused *ssh.OpenChannelError
		switch {
		case err == nil:
			return nc, nil
		case ctx.Err() != nil:
			return nil, h.ended(ctx, stepConnect, c.c.Timeout)
		case errors.As(err, &refused) && refused.Reason == ssh.Prohibited:
			return nil, errs.WithHint(h.fail(stepConnect, "'%s' does not forward connections: %s", h.before, printable(refused.Message)),
				"a ProxyJump host must allow it to this key (AllowTcpForwarding, PermitOpen)")
		case errors.As(err, &refused):
			return nil, errs.WithHint(h.fail(stepConnect, "'%s' cannot reach '%s': %s", h.before, h.address(), printable(refused.Message)),
				"is sshd running there? %s", h.where())
		}
		return nil, h.fail(stepConnect, "'%s' has lost the connection: %w", h.before, err)
	}
	d := net.Dialer{KeepAliveConfig: keepAlive(c.c.Silence)}
	nc, err := d.DialContext(ctx, "tcp", h.address())
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		<-ctx.Done() // the dialer has a timer of its own for that, which was faster
	}
	var dns *net.DNSError
	switch {
	case err == nil:
		if err := tcp.LimitSilence(nc, c.c.Silence); err != nil {
			_ = nc.Close() // nothing was written
			return nil, h.fail(stepConnect, "%w", err)
		}
		return nc, nil
	case ctx.Err() != nil:
		step := stepConnect
		if errors.As(err, &dns) {
			step = stepResolve
		}
		return nil, h.ended(ctx, step, c.c.Timeout)
	case errors.As(err, &dns):
		return nil, errs.WithHint(h.fail(stepResolve, "no address of '%s': %s", h.host, dns.Err), "is the name right? %s", h.where())
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, errs.WithHint(h.fail(stepConnect, "%s", reason(err)), "is sshd running there, and on port %d? %s", h.port, h.where())
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.ETIMEDOUT):
		return nil, errs.WithHint(h.fail(stepConnect, "%s", reason(err)), "is the host up, and does a firewall let port %d through? %s", h.port, h.where())
	}
	return nil, errs.WithHint(h.fail(stepConnect, "%s", reason(err)), "%s", h.where())
}

// reason is what the operating system said, and about which address.
func reason(err error) string {
	var op *net.OpError
	var said syscall.Errno
	if errors.As(err, &op) && errors.As(err, &said) && op.Addr != nil {
		return op.Addr.String() + ": " + said.Error()
	}
	return printable(err.Error())
}

// keepAlive has the kernel ask a peer that says nothing whether it is there.
func keepAlive(silence time.Duration) net.KeepAliveConfig {
	if silence <= 0 {
		return net.KeepAliveConfig{Enable: true}
	}
	return net.KeepAliveConfig{
		Enable: true, Idle: max(silence/2, time.Second), Interval: max(silence/6, time.Second), Count: 3,
	}
}

// secured is a connection of SSH and the one below it.
type secured struct {
	*ssh.Client
	wire *tcp.Conn
}

// handshake logs in over nc, which it closes when that fails. dropped says that the server closed
// the connection before it said anything.
func (c *Client) handshake(ctx context.Context, h *hop, nc net.Conn, known *knownHosts, ids *identities) (client *secured, dropped bool, err error) {
	gathered := tcp.NewConn(nc)
	greeted := &greeting{Conn: gathered}
	var step, offered atomic.Value // written by the goroutine that exchanges keys
	var wrongHost error
	step.Store(stepConnect)
	config := &ssh.ClientConfig{
		// AES-GCM is twice as fast as ChaCha20 where the processor knows AES.
		Config: ssh.Config{Ciphers: []string{
			ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305, ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR,
		}},
		User:              h.user,
		HostKeyAlgorithms: known.algorithms(),
		HostKeyCallback: func(name string, remote net.Addr, key ssh.PublicKey) error {
			step.Store(stepHostKey)
			wrongHost = known.verify(name, remote, key)
			if wrongHost == nil {
				step.Store(stepLogin)
			}
			return wrongHost
		},
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			offered.Store(true)
			return ids.signers, nil
		})},
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	sc, chans, reqs, err := ssh.NewClientConn(greeted, h.address(), config)
	said, isSSH := greeted.text()
	switch {
	case !stop() && !isSSH && said != "" && context.Cause(ctx) == errTimeout: // another service, which waits for its own kind of client
	case ctx.Err() != nil:
		_ = nc.Close() // the AfterFunc may still be at it
		return nil, false, h.ended(ctx, step.Load().(string), c.c.Timeout)
	case err == nil:
		c.c.Log.Debug("connected", "peer", h.String(), "server", string(sc.ServerVersion()))
		return &secured{ssh.NewClient(sc, chans, reqs), gathered}, false, nil
	}
	switch {
	case !isSSH:
		dropped, err = h.noGreeting(said, err)
		return nil, dropped, err
	case step.Load() == stepHostKey:
		return nil, false, wrongHost
	case step.Load() == stepLogin:
		return nil, false, h.refused(err, offered.Load() != nil, ids)
	}
	return nil, false, errs.WithHint(h.fail(stepConnect, "%s", printable(bare(err))), "sshd's log there may say more")
}

// bare takes off what the library puts before its errors.
func bare(err error) string {
	text := strings.TrimPrefix(err.Error(), "ssh: handshake failed: ")
	return strings.TrimPrefix(text, "ssh: ")
}

// noGreeting says what a server is that does not introduce itself as one of SSH.
func (h *hop) noGreeting(said string, err error) (dropped bool, _ error) {
	ended := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	busy := strings.HasPrefix(said, "Exceeded MaxStartups")
	if ended && (said == "" || busy) {
		e := h.fail(stepConnect, "the server closed the connection without a greeting, %d times", maxTries)
		return true, errs.WithHint(e, "too many may be logging in at once (MaxStartups of sshd), or sshd's log there says why")
	}
	if said == "" {
		return false, h.fail(stepConnect, "%s", printable(bare(err)))
	}
	return false, errs.WithHint(h.fail(stepConnect, "what answers is not an SSH server: it said %s", strconv.Quote(printable(said))),
		"is %d the port of sshd? %s", h.port, h.where())
}

// refused says why a login failed.
func (h *hop) refused(err error, offered bool, ids *identities) error {
	text := bare(err)
	switch {
	case !offered && strings.Contains(text, "unable to authenticate"):
		return errs.WithHint(h.fail(stepLogin, "the server takes no keys from user '%s'", h.user),
			"is PubkeyAuthentication on in its sshd_config, and AllowUsers wide enough?")
	case !offered, !strings.Contains(text, "unable to authenticate") && !strings.Contains(text, "Too many"):
		return errs.WithHint(h.fail(stepLogin, "the server ended it: %s", printable(text)), "sshd's log there says why")
	}
	e := ids.explain(h.fail(stepLogin, "user '%s' is not let in with any of the keys %s", h.user, strings.Join(ids.names, ", ")))
	if strings.Contains(text, "Too many") {
		e = errs.WithHint(e, "the server did not look at all of them (MaxAuthTries): name one by IdentityFile, with 'IdentitiesOnly yes'")
	}
	return errs.WithHint(errs.WithHint(e, "authorized_keys of '%s' on '%s' must have the line that 'pgx ssh-setup' prints", h.user, h.alias),
		"if it does, sshd's log there says why: modes of files, a locked account, AllowUsers")
}

// greeting is a connection that remembers what came before and with the server's version line.
type greeting struct {
	net.Conn
	head []byte
	over bool
}

// Read is called by one goroutine until the version is there; the others come later.
func (g *greeting) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if !g.over {
		g.head = append(g.head, p[:n]...)
		i := bytes.LastIndexByte(bytes.TrimSuffix(g.head, []byte("\n")), '\n') + 1
		if len(g.head) > 1024 || bytes.HasPrefix(g.head[i:], []byte("SSH-")) {
			g.over = true
		}
	}
	return n, err
}

// text gives what came before the version, and whether the version came.
func (g *greeting) text() (string, bool) {
	i := bytes.LastIndexByte(bytes.TrimSuffix(g.head, []byte("\n")), '\n') + 1
	return string(g.head), bytes.HasPrefix(g.head[i:], []byte("SSH-"))
}
