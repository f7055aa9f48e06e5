package config

import (
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// PgIsLocal says whether a cluster is on this host, as it is without pgN-host.
func (c *Config) PgIsLocal(n int) bool { return !c.IsSet(OptPgHost, n) }

// RepoIsLocal says whether a repository is on this host, or reached from it without a
// repository host, as it is without repoN-host.
func (c *Config) RepoIsLocal(n int) bool { return !c.IsSet(OptRepoHost, n) }

// RemoteCommand gives the command line, quoted for a shell, that runs pgx on the host of
// a cluster or else of a repository: pgN-host-cmd or repoN-host-cmd, the options
// of its configuration files as far as they were given, and then words.
func (c *Config) RemoteCommand(pg bool, n int, words ...string) string {
	cmd, files := OptRepoHostCmd, [3]Option{OptRepoHostConfig, OptRepoHostConfigIncludePath, OptRepoHostConfigPath}
	if pg {
		cmd, files = OptPgHostCmd, [3]Option{OptPgHostConfig, OptPgHostConfigIncludePath, OptPgHostConfigPath}
	}
	program := c.String(cmd, n)
	if !c.IsGiven(cmd, n) {
		program = quoteShell(program) // a path; what was given may have words
	}
	line := []string{program}
	for i, o := range [3]Option{OptConfig, OptConfigIncludePath, OptConfigPath} {
		if c.IsGiven(files[i], n) {
			line = append(line, quoteWord("--"+o.String()+"="+c.String(files[i], n)))
		}
	}
	for _, w := range words {
		line = append(line, quoteWord(w))
	}
	return strings.Join(line, " ")
}

// client is who a resident agent or server lets in, and what for. The key is none of our
// business here.
type client struct{ roles, stanzas []string }

func clientsOf(c Command) Option {
	if c == CmdAgent {
		return OptAgentClient
	}
	return OptServerClient
}

// parseClient reads "ROLE[,ROLE] STANZA[,STANZA] KEYTYPE BASE64 [COMMENT]".
func parseClient(text string) (client, bool) {
	fields := strings.Fields(text)
	if len(fields) < 4 {
		return client{}, false
	}
	return client{strings.Split(fields[0], ","), strings.Split(fields[1], ",")}, true
}

// service settles what concerns agent and server alone.
func (l *loader) service() error {
	c := l.cfg
	if c.Command != CmdAgent && c.Command != CmdServer {
		return nil
	}
	if c.flag(OptStdio) {
		// Standard output carries the session, standard error goes to the other host.
		by := Source{Kind: FromConfiguration, Name: "option 'stdio'"}
		*c.value(OptLogLevelConsole, 1) = value{set: true, text: "off", source: by}
		if v := c.value(OptLogLevelStderr, 1); v.source.Kind == FromDefault {
			*v = value{set: true, text: "error", source: by}
		}
		return nil
	}
	if l.dropIn {
		err := errs.New(errs.FeatureNotSupported, "command '%s' without --stdio is not supported under this name: pgx uses SSH between hosts", c.Command)
		return errs.WithHint(err, "the other host starts it through sshd; with a listener of its own it is started as pgx %s.", c.Command)
	}
	return l.clients(clientsOf(c.Command))
}

// clients checks what a resident service was told of its clients.
func (l *loader) clients(o Option) error {
	const form = "ROLE[,ROLE] STANZA[,STANZA] KEYTYPE BASE64 [COMMENT]"
	g := at(l.given, o, 1)
	if len(l.cfg.List(o)) == 0 {
		err := errs.New(errs.OptionRequired, "%s command requires option: %s", l.cfg.Command, o)
		return errs.WithHint(err, "nobody could connect; %s is expected for each key, ssh-setup prints it.", form)
	}
	roles := table[OptRole].allowed(l.cfg.Command)
	for _, text := range l.cfg.List(o) {
		client, ok := parseClient(text)
		if !ok {
			return l.wrong(errs.OptionInvalidValue, g, form+" is expected", "'%s' is not valid for '%s' option", text, o)
		}
		for _, role := range client.roles {
			if !slices.Contains(roles, role) {
				return l.wrong(errs.OptionInvalidValue, g, "allowed roles are '"+strings.Join(roles, "', '")+"'",
					"'%s' is not a role for '%s' option", role, o)
			}
		}
		for _, stanza := range client.stanzas {
			if !isStanza(stanza) { // "*" is all of them
				return l.wrong(errs.OptionInvalidValue, g, form+" is expected", "'%s' is not a stanza for '%s' option", stanza, o)
			}
		}
	}
	return nil
}
