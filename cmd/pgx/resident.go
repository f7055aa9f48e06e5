package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/protocol/sshd"
)

// drain is how long sessions may go on after SIGTERM.
const drain = time.Minute

// listening are the options of a resident agent or server.
type listening struct{ address, port, client, hostKey config.Option }

func (a *app) listening() listening {
	if a.cfg.Command == config.CmdAgent {
		return listening{config.OptAgentAddress, config.OptAgentPort, config.OptAgentClient, config.OptAgentHostKey}
	}
	return listening{config.OptServerAddress, config.OptServerPort, config.OptServerClient, config.OptServerHostKey}
}

// endpoint is where to listen.
func (a *app) endpoint() string {
	o := a.listening()
	address := a.cfg.String(o.address)
	if address == "*" {
		address = ""
	}
	return net.JoinHostPort(address, strconv.Itoa(a.cfg.Int(o.port)))
}

// grants are the clients of the configuration, which has seen to it that there are any.
func (a *app) grants() ([]sshd.Grant, error) {
	o := a.listening().client
	var all []sshd.Grant
	for _, text := range a.cfg.List(o) {
		g, err := sshd.ParseGrant(text)
		if err != nil {
			return nil, errs.Wrap(err, "option '%s'", o)
		}
		all = append(all, g)
	}
	return all, nil
}

// serveResident listens until ctx ends, and takes a changed configuration up on SIGHUP.
func (a *app) serveResident(ctx context.Context) error {
	grants, err := a.grants()
	if err != nil {
		return err
	}
	key, err := sshd.HostKey(ctx, a.cfg.String(a.listening().hostKey))
	if err != nil {
		return err
	}
	var current atomic.Pointer[app] // whose configuration new sessions get
	current.Store(a)
	server := sshd.New(sshd.Config{
		HostKey: key, Drain: drain, Silence: a.cfg.Duration(config.OptIOTimeout), Log: a.log, Now: a.now,
		Serve: func(ctx context.Context, t io.ReadWriteCloser, p sshd.Peer) {
			who := grantee{
				name: p.Name + " at " + p.Address,
				holds: func(role string) bool {
					return slices.ContainsFunc(p.Grants, func(g sshd.Grant) bool { return slices.Contains(g.Roles, role) })
				},
				permits: p.Permits,
				where:   fmt.Sprintf("option %s of this host says what each key may do", a.listening().client),
			}
			if err := current.Load().serveSession(ctx, t, who); err != nil {
				a.log.Warn(fmt.Sprintf("session of %s ended: [%03d] %s", who.name, errs.CodeOf(err), err))
			}
		},
	})
	if err := server.SetGrants(grants); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", a.endpoint())
	if err != nil {
		o := a.listening()
		return errs.WithHint(errs.WrapAs(errs.HostConnect, err, "listen on '%s'", a.endpoint()),
			"options %s and %s say where to listen", o.address, o.port)
	}
	a.log.Info(fmt.Sprintf("listening on %s with host key %s", l.Addr(), ssh.FingerprintSHA256(key.PublicKey())))
	a.log.Info(fmt.Sprintf("%s may log in", count(len(grants), "client", "clients")))

	var working sync.WaitGroup
	defer working.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	working.Go(func() {
		for {
			select {
			case <-ctx.Done():
				a.notify(daemon.SdNotifyStopping)
				a.log.Info(fmt.Sprintf("ending: no further session begins, running ones have %s", drain))
				return
			case <-a.reload:
				a.notify(daemon.SdNotifyReloading)
				next, err := current.Load().reloaded(server)
				if err != nil {
					a.log.Error("the configuration is not taken up, the former one stays: "+err.Error(), logging.Code(errs.CodeOf(err)))
				} else {
					current.Store(next)
				}
				a.notify(daemon.SdNotifyReady)
			}
		}
	})
	if a.cfg.Command == config.CmdAgent {
		working.Go(func() { archiveAll(ctx, current.Load) })
	}
	a.notify(daemon.SdNotifyReady)
	if err := server.Serve(ctx, l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// reloaded reads the configuration again and lets the server know of its clients.
func (a *app) reloaded(server *sshd.Server) (*app, error) {
	cfg, err := config.Load(a.input)
	if err != nil {
		return nil, err
	}
	next := *a
	next.cfg = cfg
	grants, err := next.grants()
	if err != nil {
		return nil, err
	}
	for _, name := range cfg.Stanzas() { // what is broken there must not wait for a session
		if _, err := next.forStanza(name); err != nil {
			return nil, errs.Wrap(err, "stanza '%s'", name)
		}
	}
	if next.endpoint() != a.endpoint() {
		a.log.Warn(fmt.Sprintf("listening stays on '%s' until the next start", a.endpoint()))
	}
	if err := server.SetGrants(grants); err != nil {
		return nil, err
	}
	for _, w := range cfg.Warnings {
		a.log.Warn(w)
	}
	a.log.Info(fmt.Sprintf("configuration read again: %s may log in", count(len(grants), "client", "clients")))
	return &next, nil
}

// notify tells systemd, if it wants to know.
func (a *app) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		a.log.Warn(fmt.Sprintf("unable to notify systemd: %s", err))
	}
}

func count(n int, one, more string) string {
	if n == 1 {
		more = one
	}
	return fmt.Sprintf("%d %s", n, more)
}
