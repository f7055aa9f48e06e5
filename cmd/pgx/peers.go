package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"sync"

	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/protocol/ssh"
)

// agentArgs is what a session with an agent is about, beside the stanza.
type agentArgs struct {
	Path  string      `json:"path"`            // the data directory that the client expects
	Locks []lock.Type `json:"locks,omitempty"` // to hold on that host too, for
	Repos []int       `json:"repos,omitempty"` // these repositories
}

// serverArgs is what a session with a repository host is about, beside the stanza.
type serverArgs struct {
	Repo  int         `json:"repo"`            // number of the repository, the same on both hosts
	Locks []lock.Type `json:"locks,omitempty"` // to hold on that host too, for this repository
}

// peers are the other hosts that the command speaks to. Each is connected to when it is
// needed.
type peers struct {
	mu         sync.Mutex
	home, user string         // of this process
	open       []func() error // what is to be closed, the last first
}

// me gives the user this process runs as, and the home directory ssh would use.
func (p *peers) me() (name, home string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.user == "" {
		if u, err := user.Current(); err == nil {
			p.user, p.home = u.Username, u.HomeDir
		} else {
			p.user, p.home = os.Getenv("USER"), os.Getenv("HOME")
		}
	}
	return p.user, p.home
}

// closes remembers what is to be closed.
func (p *peers) closes(end func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, end)
}

// close ends all connections.
func (p *peers) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all error
	for i := len(p.open) - 1; i >= 0; i-- {
		all = errors.Join(all, p.open[i]())
	}
	p.open = nil
	return all
}

// side says which of the numbered hosts of the configuration is meant.
type side struct {
	host, user, port config.Option
	command          config.Command // what runs there
}

var (
	pgSide   = side{config.OptPgHost, config.OptPgHostUser, config.OptPgHostPort, config.CmdAgent}
	repoSide = side{config.OptRepoHost, config.OptRepoHostUser, config.OptRepoHostPort, config.CmdServer}
)

// option names an option of the side's host n, such as pg1-host.
func (s side) option(n int) string {
	if s.command == config.CmdAgent {
		return fmt.Sprintf("pg%d-host", n)
	}
	return fmt.Sprintf("repo%d-host", n)
}

// client makes the way to a host of the configuration in one role. Nothing is connected yet.
func (a *app) client(s side, n int, role string) *ssh.Client {
	c := a.cfg
	words := []string{}
	if a.stanza() != "" {
		words = append(words, "--"+config.OptStanza.String()+"="+a.stanza())
	}
	words = append(words, "--"+config.OptRole.String()+"="+role, s.command.String(), "--"+config.OptStdio.String())
	h := ssh.Host{
		Name: c.String(s.host, n), Option: s.option(n), Port: c.Int(s.port, n),
		Command: c.RemoteCommand(s.command == config.CmdAgent, n, words...),
	}
	// The default gives way to what ~/.ssh/config says of the host.
	if h.DefaultUser = c.String(s.user, n); c.IsGiven(s.user, n) {
		h.User = h.DefaultUser
	}
	local, home := a.peers.me()
	client := ssh.New(h, ssh.Config{
		ConfigFile: c.String(config.OptSSHConfig), Home: home, User: local, AgentSocket: os.Getenv("SSH_AUTH_SOCK"),
		Timeout: c.Duration(config.OptIOTimeout), Silence: c.Duration(config.OptIOTimeout), Log: a.log,
	})
	a.peers.closes(client.Close)
	return client
}

// sessions gives a pool of sessions with a host in one role.
func (a *app) sessions(s side, n int, role string, max int, args any) (*protocol.Pool, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, errs.New(errs.Assert, "marshal arguments of role '%s': %w", role, err)
	}
	client := a.client(s, n, role)
	pool := protocol.NewPool(max, func(ctx context.Context) (*protocol.Session, error) {
		return a.greet(ctx, client, role, raw)
	})
	a.peers.closes(pool.Close)
	return pool, nil
}

// greet opens one session.
func (a *app) greet(ctx context.Context, client *ssh.Client, role string, args json.RawMessage) (*protocol.Session, error) {
	channel, err := client.Open(ctx)
	if err != nil {
		return nil, err
	}
	return protocol.Open(ctx, channel, protocol.Hello{
		ExecID: a.execID, Command: a.cfg.Command.String(), Role: role, Stanza: a.stanza(), Args: args,
	}, protocol.Config{
		Peer: client.String(), Program: "pgx " + version,
		Silence: a.cfg.Duration(config.OptIOTimeout), Wait: a.cfg.Duration(config.OptProtocolTimeout),
	})
}
