// Package sshd is the SSH listener of a resident pgx: it needs no account on the host and
// starts no shell, its clients are keys.
//
// Whoever proves that it has a key that was granted something may open session channels and
// ask on each for one command. The text of the command and the user's name mean nothing: a channel
// becomes a Transport that is handed to Config.Serve together with what the key may do. So a
// client speaks to this listener as it speaks to a host's own sshd with a forced command.
// Everything else that SSH offers is refused: terminals, environment, agents, ports, sockets,
// subsystems.
//
// # What a client can cost
//
// Before it has logged in: one of MaxLogins places, for LoginTime. After that: MaxSessions
// connections and as many sessions for its key, however many hosts use the key, each with the 2 MiB
// that the channel's window lets a client send ahead. A client that does not do its part, such
// as to answer the close of a channel, is cut off after Silence.
package sshd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol/tcp"
)

// Peer is who is at the other end of a session: the key that logged in and nothing else.
type Peer struct {
	Name    string  // of the key
	Address string  // host and port it came from
	Grants  []Grant // all of the key; they add up
}

// Permits says whether one of the grants has this role on this stanza.
func (p Peer) Permits(role, stanza string) bool {
	return slices.ContainsFunc(p.Grants, func(g Grant) bool { return g.Permits(role, stanza) })
}

// Config is what a Server needs. Only HostKey and Serve must be set.
type Config struct {
	HostKey ssh.Signer

	// Serve runs one session to its end. ctx ends when the key has lost what it was granted, or
	// when the time to drain is over; reads and writes fail when the connection is lost.
	// Closing t ends the session for the client, with success; blocked reads and writes of t
	// return then, at the latest after Silence. When Serve returns t is closed.
	Serve func(ctx context.Context, t io.ReadWriteCloser, p Peer)

	MaxLogins     int           // connections that have not logged in yet; default 20
	MaxLoginsFrom int           // of these from one address; default half of MaxLogins
	MaxSessions   int           // sessions of one key, and connections of one key; default 64
	LoginTime     time.Duration // to log in; default 20 s
	Drain         time.Duration // how long sessions may go on when Server.Serve is to end; default: not at all

	// Silence is how long a client may let bytes or a closed channel unacknowledged, have a channel
	// without a command, or a connection without a channel; default 60 s.
	Silence time.Duration

	Log *slog.Logger     // default: nothing is logged
	Now func() time.Time // for the log; default time.Now
}

// Server is a listener's rules and who is connected. Its methods may be called from several
// goroutines.
type Server struct {
	config  Config
	ssh     *ssh.ServerConfig
	refused *ration

	mu      sync.Mutex
	keys    map[string]*key // by the marshalled public key
	waiting int             // connections that have not logged in
	from    map[netip.Prefix]int
}

// key is a key that was granted something, and its use.
type key struct {
	name   string
	grants []Grant
	rights map[right]bool

	conns    map[*conn]bool
	sessions int // channels whose session has not ended
	channels int // channels, also those whose end the client has not acknowledged
}

type right struct{ role, stanza string }

// provenKey is the key, in Permissions, of the key a client logged in with.
type provenKey struct{}

// New makes a server that lets nobody in until SetGrants.
func New(c Config) *Server {
	orDefault(&c.MaxLogins, 20)
	orDefault(&c.MaxLoginsFrom, max(1, c.MaxLogins/2))
	orDefault(&c.MaxSessions, 64)
	orDefault(&c.LoginTime, 20*time.Second)
	orDefault(&c.Silence, 60*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Server{
		config:  c,
		refused: &ration{log: c.Log, now: c.Now},
		keys:    map[string]*key{},
		from:    map[netip.Prefix]int{},
	}
	s.ssh = &ssh.ServerConfig{
		Config: ssh.Config{
			// The client's order decides; ours is what we ask for as a client.
			Ciphers: []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305,
				ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR},
			// Without the classic Diffie-Hellman groups, which cost a server much and a client nothing.
			KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519,
				ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384, ssh.KeyExchangeECDHP521},
			MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM, ssh.HMACSHA256, ssh.HMACSHA512},
		},
		PublicKeyAuthAlgorithms: ssh.SupportedAlgorithms().PublicKeyAuths,
		PublicKeyCallback:       s.mayProve,
		ServerVersion:           "SSH-2.0-pgx",
	}
	s.ssh.AddHostKey(c.HostKey)
	return s
}

func orDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// unknownKey is the error for a key that has no grant.
type unknownKey struct{ fingerprint string }

func (e unknownKey) Error() string { return "key " + e.fingerprint + " is not granted anything" }

// mayProve says whether it is worth proving to have this key. Clients ask for keys without
// proving anything, so what is decided here is nothing but that; which key was proved
// is in the Permissions that the connection ends up with.
func (s *Server) mayProve(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
	blob := string(k.Marshal())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[blob] == nil {
		return nil, unknownKey{ssh.FingerprintSHA256(k)}
	}
	return &ssh.Permissions{ExtraData: map[any]any{provenKey{}: blob}}, nil
}

// SetGrants replaces what all keys may do. Grants of one key add up. Connections of keys that may
// now do something else, or nothing, are ended; those of other keys go on. On an error nothing
// has changed.
func (s *Server) SetGrants(grants []Grant) error {
	keys := map[string]*key{}
	for i, g := range grants {
		if err := g.check(); err != nil {
			return errs.Wrap(err, "grant %d ('%s')", i+1, g.Name)
		}
		blob := string(g.Key.Marshal())
		k := keys[blob]
		if k == nil {
			k = &key{name: g.Name, rights: map[right]bool{}, conns: map[*conn]bool{}}
			keys[blob] = k
		}
		k.grants = append(k.grants, g)
		for _, role := range g.Roles {
			for _, stanza := range g.Stanzas {
				k.rights[right{role, stanza}] = true
			}
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	for blob, old := range s.keys {
		if k := keys[blob]; k != nil && maps.Equal(k.rights, old.rights) {
			old.name, old.grants = k.name, k.grants
			keys[blob] = old
			continue
		}
		for c := range old.conns {
			c.revoke()
		}
	}
	s.keys = keys
	return nil
}

// Serve accepts connections until ctx ends or l fails, and closes l. Then no new connection and
// no new channel is accepted, sessions that run may go on for Config.Drain, and what is left is
// cancelled and cut off. It returns when all that it started has ended. Several listeners may
// be served at once: limits and grants are common to them.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	accepting, stop := context.WithCancel(ctx)
	defer stop()
	running, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)

	defer context.AfterFunc(accepting, func() { _ = l.Close() })() // only makes Accept return
	var conns sync.WaitGroup
	err := s.accept(accepting, l, func(nc net.Conn) {
		conns.Go(func() { s.handle(accepting, running, nc) })
	})
	stop()
	drained := time.AfterFunc(s.config.Drain, func() { end(errs.New(errs.Term, "the listener is shutting down")) })
	defer drained.Stop()
	conns.Wait()
	return err
}

func (s *Server) accept(ctx context.Context, l net.Listener, start func(net.Conn)) error {
	var pause time.Duration
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			start(nc)
			continue
		case ctx.Err() != nil:
			return nil
		case !passes(err):
			_ = l.Close() // it is of no use any more
			return errs.WrapAs(errs.HostConnect, err, "unable to accept connections at '%s'", l.Addr())
		}
		s.refused.say(ctx, slog.LevelWarn, "unable to accept a connection at '"+l.Addr().String()+"': "+err.Error())
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// passes says whether the next Accept may succeed: a client gave up, or something is used
// up that others will free.
func passes(err error) bool {
	return slices.ContainsFunc([]error{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EINTR},
		func(e error) bool { return errors.Is(err, e) })
}

// handle runs one connection to its end.
func (s *Server) handle(accepting, running context.Context, nc net.Conn) {
	defer func() { _ = nc.Close() }() // mostly closed already
	source := sourceOf(nc.RemoteAddr())
	if why := s.enter(source); why != "" {
		s.refused.say(running, slog.LevelInfo, "connection from '"+nc.RemoteAddr().String()+"' refused: "+why)
		return
	}
	wire := tcp.NewConn(nc)
	sc, channels, requests, err := s.login(accepting, nc, wire)
	s.leave(source)
	if err != nil {
		s.logRefusal(accepting, nc.RemoteAddr(), err)
		return
	}
	c := &conn{server: s, net: wire, channels: channels, requests: requests}
	running, c.end = context.WithCancelCause(running)
	defer c.end(nil)
	if why := c.register(sc.Permissions.ExtraData[provenKey{}].(string)); why != "" {
		s.refused.say(running, slog.LevelInfo, "connection from '"+nc.RemoteAddr().String()+"' refused: "+why)
		_ = nc.Close() // ends what c.run waits for
	} else {
		defer c.unregister()
		s.config.Log.InfoContext(running, "connection from '"+c.peer.Address+"' with key '"+c.peer.Name+"'")
	}
	c.run(accepting, running)
	_ = sc.Wait() // how the connection ended is the sessions' concern
}

// login is done when the client, with whom wire speaks over nc, has proved that it has a
// key. One that has not when ctx ends is not worth waiting for.
func (s *Server) login(ctx context.Context, nc net.Conn, wire *tcp.Conn) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })() // only makes the handshake return
	if err := tcp.LimitSilence(nc, s.config.Silence); err != nil {
		return nil, nil, nil, err
	}
	if err := nc.SetDeadline(time.Now().Add(s.config.LoginTime)); err != nil {
		return nil, nil, nil, err
	}
	sc, channels, requests, err := ssh.NewServerConn(wire, s.ssh)
	if err != nil {
		return nil, nil, nil, err
	}
	_ = nc.SetDeadline(time.Time{}) // fails only where the connection does too
	return sc, channels, requests, nil
}

// sourceOf is what counts as one address: of IPv6 a whole network of one site.
func sourceOf(a net.Addr) netip.Prefix {
	from, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	addr := from.AddrPort().Addr().Unmap()
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.WithZone("").Prefix(bits) // the zero Prefix for an address that is none
	return p
}

// enter takes a place among those that have not logged in, or says why there is none.
func (s *Server) enter(source netip.Prefix) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.waiting >= s.config.MaxLogins:
		return "too many connections have not logged in yet"
	case s.from[source] >= s.config.MaxLoginsFrom:
		return "too many connections from this address have not logged in yet"
	}
	s.waiting++
	s.from[source]++
	return ""
}

func (s *Server) leave(source netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
	if s.from[source]--; s.from[source] == 0 {
		delete(s.from, source)
	}
}
