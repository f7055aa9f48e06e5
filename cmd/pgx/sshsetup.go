package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/remote"
)

// entrance is an account on another host that this one has to get in by, and what for. A
// key has one line in authorized_keys, so what several stanzas need of it is put together.
type entrance struct {
	side
	app     *app // with the configuration of the first stanza
	n       int
	stanzas []string
	roles   []string
	visits  []visit
}

// visit is one session that must be possible.
type visit struct {
	app  *app
	role string
	args any
}

// entrances gives those of the stanza of the command, or of all that are configured.
func (a *app) entrances() ([]*entrance, error) {
	stanzas := a.cfg.Stanzas()
	if a.stanza() != "" {
		stanzas = []string{a.stanza()}
	}
	var all []*entrance
	add := func(one *app, s side, n int, args any, roles ...string) {
		account := one.client(s, n, "").String()
		i := slices.IndexFunc(all, func(e *entrance) bool {
			return e.command == s.command && e.app.client(e.side, e.n, "").String() == account
		})
		if i < 0 {
			i = len(all)
			all = append(all, &entrance{side: s, app: one, n: n, roles: roles})
		}
		e := all[i]
		if !slices.Contains(e.stanzas, one.stanza()) {
			e.stanzas = append(e.stanzas, one.stanza())
		}
		for _, role := range roles {
			e.visits = append(e.visits, visit{one, role, args})
		}
	}
	for _, name := range stanzas {
		one, err := a.forStanza(name)
		if err != nil {
			return nil, err
		}
		for _, n := range one.cfg.Pgs() {
			if !one.cfg.PgIsLocal(n) {
				add(one, pgSide, n, agentArgs{Path: one.cfg.String(config.OptPgPath, n)}, agent.RoleBackup)
			}
		}
		for _, n := range one.cfg.Repos() {
			if !one.cfg.RepoIsLocal(n) {
				add(one, repoSide, n, serverArgs{Repo: n}, remote.RoleArchive, remote.RoleRestore)
			}
		}
	}
	if len(all) == 0 {
		return nil, errs.WithHint(errs.New(errs.OptionRequired, "no other host is configured"),
			"set repo1-host on a PostgreSQL host, pg1-host on a repository host")
	}
	return all, nil
}

func sshSetup(ctx context.Context, a *app) error {
	all, err := a.entrances()
	if err != nil {
		return err
	}
	if a.cfg.Bool(config.OptCheck) {
		return checkEntrances(ctx, all)
	}
	var b strings.Builder
	for i, e := range all {
		if i > 0 {
			b.WriteString("\n")
		}
		if err := e.describe(ctx, &b); err != nil {
			return err
		}
	}
	fmt.Fprintf(&b, "\n# then, on this host: pgx ssh-setup --check\n")
	return print(b.String())
}

// describe writes what has to be done on both hosts. Everything but the lines of
// configuration files is a command or a comment for a shell.
func (e *entrance) describe(ctx context.Context, b *strings.Builder) error {
	setup, err := e.app.client(e.side, e.n, "").Setup(ctx)
	if err != nil {
		return err
	}
	here, err := os.Hostname()
	if err != nil {
		here = "this host"
	}
	me, _ := e.app.peers.me()
	fmt.Fprintf(b, "# %s: %s of %s logs in to %s as %s\n\n", e.option(e.n), me, here, setup.Host, setup.User)

	key := setup.PublicKey
	if key == "" {
		fmt.Fprintf(b, "# on %s, as %s: make a key, and run this command again to see it in the lines below\n", here, me)
		fmt.Fprintf(b, "ssh-keygen -q -t ed25519 -N '' -f %s\n\n", setup.KeyFile)
		key = "ssh-ed25519 PUBLIC-KEY " + me + "@" + here
	}
	const sshdKey = "/etc/ssh/ssh_host_ed25519_key.pub"
	fmt.Fprintf(b, "# on %s, as %s: trust the host key of %s. Compare what the last command shows with\n", here, me, setup.Host)
	port := ""
	if setup.Port == 22 {
		fmt.Fprintf(b, "# ssh-keygen -lf %s on %s\n", sshdKey, setup.Host)
	} else {
		port = fmt.Sprintf("-p %d ", setup.Port)
		fmt.Fprintf(b, "# ssh-keygen -lf /var/lib/pgx/%s/host_key.pub on %s\n", e.command, setup.Host)
		fmt.Fprintf(b, "# or, should sshd listen on port %d there, with ssh-keygen -lf %s\n", setup.Port, sshdKey)
	}
	fmt.Fprintf(b, "ssh-keyscan -t ed25519 %s%s >>%s\n", port, setup.Host, setup.KnownHosts)
	fmt.Fprintf(b, "ssh-keygen -lf %s\n\n", setup.KnownHosts)

	stanza := e.stanzas[0]
	words := []string{"--" + config.OptStanza.String() + "=" + stanza}
	if len(e.stanzas) > 1 {
		words = nil
		fmt.Fprintf(b, "# The key is used for the stanzas %s: without --stanza it is good for all on %s.\n",
			strings.Join(e.stanzas, ", "), setup.Host)
	}
	for _, role := range e.roles {
		words = append(words, "--"+config.OptRole.String()+"="+role)
	}
	words = append(words, e.command.String(), "--"+config.OptStdio.String())
	command := e.app.cfg.RemoteCommand(e.command == config.CmdAgent, e.n, words...)
	fmt.Fprintf(b, "# on %s, as %s: one line of ~/.ssh/authorized_keys (mode 600)\n", setup.Host, setup.User)
	fmt.Fprintf(b, "restrict,command=\"%s\" %s\n\n", strings.ReplaceAll(command, `"`, `\"`), key)

	o := "server-client"
	if e.command == config.CmdAgent {
		o = "agent-client"
	}
	fmt.Fprintf(b, "# or, where pgx %s runs as a service on %s: one line of the section [global] of its configuration\n", e.command, setup.Host)
	fmt.Fprintf(b, "%s=%s %s %s\n", o, strings.Join(e.roles, ","), strings.Join(e.stanzas, ","), key)
	return nil
}

// checkEntrances opens each session once and tells what came of it. The first error is the
// error of the command.
func checkEntrances(ctx context.Context, all []*entrance) error {
	var first error
	failed := 0
	for _, e := range all {
		for _, v := range e.visits {
			what := fmt.Sprintf("%s: role %s on stanza %s", e.option(e.n), v.role, v.app.stanza())
			account, err := v.try(ctx, e)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			text := fmt.Sprintf("ok      %s as %s\n", what, account)
			if errs.CodeOf(err) == errs.PathMissing { // it may ask, and will find it
				text = fmt.Sprintf("ok      %s; there is no repository yet: stanza-create makes it\n", what)
			} else if err != nil {
				failed++
				first = errors.Join(first, err)
				text = fmt.Sprintf("failed  %s: %s\n", what, err)
			}
			if err := print(text); err != nil {
				return err
			}
		}
	}
	if first == nil {
		return nil
	}
	return errs.WithHint(errs.New(errs.CodeOf(first), "%s not be opened", count(failed, "session could", "sessions could")),
		"pgx ssh-setup without --check prints the lines for both hosts")
}

func (v visit) try(ctx context.Context, e *entrance) (account string, err error) {
	raw, err := json.Marshal(v.args)
	if err != nil {
		return "", errs.New(errs.Assert, "marshal arguments of role '%s': %w", v.role, err)
	}
	client := v.app.client(e.side, e.n, v.role)
	s, err := v.app.greet(ctx, client, v.role, raw)
	if err != nil {
		return "", err
	}
	return client.String(), s.Close()
}
