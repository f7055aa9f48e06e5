package sshd

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol/tcp"
)

const (
	// maxRequests is how many requests may precede exec. OpenSSH sends a handful for the
	// environment.
	maxRequests = 64

	// farewell is what a session that was cancelled has to tell the client why.
	farewell = time.Second

	noShell = "this is a pgx listener, there is no shell: pgx connects to it by itself, with this key, as its configuration says\n"
)

// conn is one connection of somebody who has logged in.
//
// It is cut off by closing the network connection, never by closing the SSH connection: that one
// waits for a goroutine that may be waiting for us.
type conn struct {
	server   *Server
	net      *tcp.Conn
	channels <-chan ssh.NewChannel
	requests <-chan *ssh.Request
	end      context.CancelCauseFunc // of all sessions
	key      *key
	peer     Peer
}

// register enters c among those of its key, or says why not. The key may have lost its grant
// since the client was told that it is good.
func (c *conn) register(blob string) string {
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[blob]
	switch {
	case k == nil:
		return "its key is not granted anything any more"
	case len(k.conns) >= s.config.MaxSessions:
		return fmt.Sprintf("key '%s' has %d connections already", k.name, len(k.conns))
	}
	c.key = k
	c.peer = Peer{Name: k.name, Address: c.net.RemoteAddr().String(), Grants: k.grants}
	k.conns[c] = true
	return ""
}

func (c *conn) unregister() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	delete(c.key.conns, c)
}

// revoke ends c because its key may no longer do what it could.
func (c *conn) revoke() {
	c.server.config.Log.Info("connection from '" + c.peer.Address + "' ended: the grant of key '" + c.peer.Name + "' was changed")
	c.end(errs.New(errs.Access, "the grant of key '%s' was changed", c.peer.Name))
	c.cut()
}

func (c *conn) cut() { _ = c.net.Close() } // there is nobody to tell

// run answers the client until the connection is gone and all sessions have ended.
func (c *conn) run(accepting, running context.Context) {
	defer context.AfterFunc(running, func() {
		_ = c.net.SetDeadline(time.Now().Add(farewell)) // fails on a closed connection
	})()
	var answering sync.WaitGroup
	defer answering.Wait()
	answering.Go(func() {
		for r := range c.requests {
			_ = r.Reply(r.Type == "keepalive@openssh.com", nil) // a lost connection shows elsewhere
		}
	})

	var (
		stop    = accepting.Done()
		idle    = time.NewTimer(c.server.config.Silence)
		ended   = make(chan struct{})
		open    int
		arrived = c.channels
	)
	defer idle.Stop()
	for arrived != nil || open > 0 {
		select {
		case offered, ok := <-arrived:
			if !ok { // the connection is gone
				arrived = nil
				break
			}
			channel, requests := c.accept(accepting, offered)
			if channel == nil {
				break
			}
			open++
			idle.Stop()
			go func() {
				c.session(running, channel, requests)
				ended <- struct{}{}
			}()
		case <-ended:
			if open--; open == 0 {
				idle.Reset(c.server.config.Silence)
			}
		case <-stop:
			stop = nil
		case <-idle.C:
			c.server.config.Log.DebugContext(running, "connection from '"+c.peer.Address+"' ended: it is not used")
			c.cut()
		}
		if open == 0 && stop == nil {
			c.cut()
		}
	}
}

// accept gives the channel that was offered, nil when it was refused.
func (c *conn) accept(accepting context.Context, offered ssh.NewChannel) (ssh.Channel, <-chan *ssh.Request) {
	reason, why := ssh.Prohibited, ""
	switch {
	case c.key == nil: // never registered
		return nil, nil
	case offered.ChannelType() != "session":
		why = "this is a pgx listener, it forwards nothing"
	case accepting.Err() != nil:
		reason, why = ssh.ConnectionFailed, "the listener is shutting down"
	default:
		reason, why = ssh.ResourceShortage, c.enter()
	}
	if why != "" {
		_ = offered.Reject(reason, why) // a lost connection shows elsewhere
		return nil, nil
	}
	channel, requests, err := offered.Accept()
	if err != nil { // the connection is lost
		c.leave()
		c.forget()
		return nil, nil
	}
	return channel, requests
}

// enter takes a place for a session of the key, or says why there is none. A client may
// leave channels half closed only as often as it may have sessions.
func (c *conn) enter() string {
	limit := c.server.config.MaxSessions
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if c.key.sessions >= limit || c.key.channels >= 2*limit {
		return fmt.Sprintf("key '%s' has %d sessions already", c.key.name, limit)
	}
	c.key.sessions++
	c.key.channels++
	return ""
}

func (c *conn) leave() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.key.sessions--
}

func (c *conn) forget() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.key.channels--
}

// session runs one channel until the client has acknowledged its end.
func (c *conn) session(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer c.forget()
	t := &transport{channel: channel, wire: c.net, silence: c.server.config.Silence, cut: c.cut}
	late := time.AfterFunc(t.silence, c.cut)
	defer late.Stop()
	started := t.awaitExec(requests)

	var refusing sync.WaitGroup
	refusing.Go(func() {
		for r := range requests {
			_ = r.Reply(false, nil) // a lost connection shows elsewhere
		}
	})
	if started {
		late.Stop()
		c.server.config.Serve(ctx, t, c.peer)
	}
	c.leave() // before the client can know that there is room again
	_ = t.Close()
	refusing.Wait()
	t.unanswered.Stop()
}

// transport is a channel whose Close makes blocked calls return.
type transport struct {
	channel ssh.Channel
	wire    *tcp.Conn
	silence time.Duration
	cut     func()

	status     uint32 // what the client sees as the exit status of its command
	once       sync.Once
	unanswered *time.Timer
	err        error
}

// awaitExec answers requests until there is one for a command. It is false when there will
// be none.
func (t *transport) awaitExec(requests <-chan *ssh.Request) bool {
	t.status = 1
	for range maxRequests {
		r, ok := <-requests
		if !ok {
			return false
		}
		switch r.Type {
		case "exec":
			t.status = 0
			return r.Reply(true, nil) == nil
		case "shell":
			// A client whose request fails does not show what it got.
			_ = r.Reply(true, nil)
			_, _ = io.WriteString(t.channel.Stderr(), noShell) // a lost connection shows elsewhere
			return false
		}
		_ = r.Reply(false, nil)
	}
	return false
}

func (t *transport) Read(p []byte) (int, error) { return t.channel.Read(p) }

func (t *transport) Write(p []byte) (int, error) {
	t.wire.Hold()
	n, err := t.channel.Write(p)
	if rerr := t.wire.Release(); err == nil {
		err = rerr
	}
	return n, err
}

// Close tells the client that the command has ended. Reads and writes that are blocked
// return when it answers. One that does not is cut off: no other way leads out of them.
func (t *transport) Close() error {
	t.once.Do(func() {
		t.unanswered = time.AfterFunc(t.silence, t.cut)
		_, _ = t.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{t.status}))
		if t.err = t.channel.Close(); t.err == io.EOF {
			t.err = nil // the client was first
		}
	})
	return t.err
}
