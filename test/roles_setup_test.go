package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgx-backup/pgx/internal/sshtest"
)

// client gives the site of a host whose other host is reached with the key of a holder: a PostgreSQL host,
// or, with a repository of its own, a repository host.
func (h *roleHosts) client(way, holder, repo string, more ...string) *site {
	h.Helper()
	prefix, port, global := "repo1", h.sshd.Port, ""
	side := "server"
	if repo != "" {
		prefix, side = "pg1", "agent"
		global = "repo1-path=" + repo + "\n"
	}
	if way == "resident" {
		port = h.ports[side]
	}
	other := fmt.Sprintf("%s-host=127.0.0.1\n%s-host-port=%d\n%s-host-user=%s\n%s-host-config=%s\n", prefix, prefix, port, prefix, h.account, prefix, h.services)
	stanza := "\n[demo]\npg1-path=" + h.pg.PGDATA + "\n"
	if repo == "" {
		global += other
	} else {
		stanza += other
	}
	c := *h.site
	c.conf = filepath.Join(h.dir, strings.Join([]string{"client", way, holder, prefix, fmt.Sprint(len(more))}, "-")+".conf")
	h.write(c.conf, fmt.Sprintf("[global]\nlog-level-file=off\nlock-path=%s\nspool-path=%s\nssh-config=%s\n%s%s%s",
		filepath.Join(h.dir, "client-lock"), filepath.Join(h.dir, "client-spool"), filepath.Join(h.keys, holder+".conf"),
		global, stanza, strings.Join(more, "")))
	return &c
}

// public gives the public key of a holder without its comment.
func (h *roleHosts) public(holder string) string {
	h.Helper()
	b, err := os.ReadFile(filepath.Join(h.keys, holder+".pub"))
	if err != nil {
		h.Fatal(err)
	}
	f := strings.Fields(string(b))
	return f[0] + " " + f[1]
}

// setup: pgx ssh-setup says what lets the hosts talk to each other, and --check what is missing.
func (h *roleHosts) setup() {
	h.advice()
	h.checks()
	h.followed()
}

func (h *roleHosts) advice() {
	const other = "\n[other]\npg1-path=/nowhere\n"
	file := filepath.Join(h.keys, "none")
	h.write(file+".conf", "IdentityFile "+file+"\nUserKnownHostsFile /known\n")
	server, agent := h.forced("server", "archive,restore", "demo"), h.forced("agent", "backup", "demo")
	sshd, resident := fmt.Sprint(h.sshd.Port), fmt.Sprint(h.ports["server"])
	for name, c := range map[string]struct {
		site *site
		args []string
		want []string
	}{
		"no key": {h.client("sshd", "none", ""), nil, []string{
			"# repo1-host: " + h.account + " of HERE logs in to 127.0.0.1 as " + h.account,
			"# on HERE, as " + h.account + ": make a key, and run this command again to see it in the lines below",
			"ssh-keygen -q -t ed25519 -N '' -f " + file,
			"ssh-keyscan -t ed25519 -p " + sshd + " 127.0.0.1 >>/known",
			"ssh-keygen -lf /known",
			`restrict,command="` + server + `" ssh-ed25519 PUBLIC-KEY ` + h.account + "@HERE",
			"server-client=archive,restore demo ssh-ed25519 PUBLIC-KEY " + h.account + "@HERE",
			"# then, on this host: pgx ssh-setup --check",
		}},
		"key": {h.client("sshd", "db1", ""), nil, []string{
			"# on 127.0.0.1, as " + h.account + ": one line of ~/.ssh/authorized_keys (mode 600)",
			`restrict,command="` + server + `" ` + h.public("db1") + " " + h.account + "@HERE",
			"server-client=archive,restore demo " + h.public("db1") + " " + h.account + "@HERE",
		}},
		"resident": {h.client("resident", "db1", ""), nil, []string{
			"ssh-keyscan -t ed25519 -p " + resident + " 127.0.0.1 >>" + filepath.Join(h.keys, "known_hosts"),
			"server-client=archive,restore demo " + h.public("db1") + " " + h.account + "@HERE",
		}},
		"stanzas": {h.client("sshd", "every", "", other), nil, []string{
			"# The key is used for the stanzas demo, other: without --stanza it is good for all on 127.0.0.1.",
			`restrict,command="` + h.forced("server", "archive,restore", "*") + `" ` + h.public("every") + " " + h.account + "@HERE",
			"server-client=archive,restore demo,other " + h.public("every") + " " + h.account + "@HERE",
		}},
		"one of them": {h.client("sshd", "every", "", other), []string{"--stanza=other"}, []string{
			`restrict,command="` + h.forced("server", "archive,restore", "other") + `" ` + h.public("every") + " " + h.account + "@HERE",
			"server-client=archive,restore other " + h.public("every") + " " + h.account + "@HERE",
		}},
		"repository host": {h.client("sshd", "backup", h.repo), nil, []string{
			"# pg1-host: " + h.account + " of HERE logs in to 127.0.0.1 as " + h.account,
			`restrict,command="` + agent + `" ` + h.public("backup") + " " + h.account + "@HERE",
			"agent-client=backup demo " + h.public("backup") + " " + h.account + "@HERE",
		}},
	} {
		here, err := os.Hostname()
		if err != nil {
			h.Fatal(err)
		}
		said := c.site.must(pgxPath(), append(c.args, "ssh-setup")...)
		for _, line := range c.want {
			if line = strings.ReplaceAll(line, "HERE", here); !strings.Contains("\n"+said, "\n"+line+"\n") {
				h.Errorf("%s: there is no line\n%s\nin\n%s", name, line, said)
			}
		}
		if strings.Contains(said, "make a key") != (name == "no key") || strings.Contains(said, "admin") || strings.Contains(said, "restore-target") ||
			strings.Contains(said, "# The key is used for the stanzas") != (name == "stanzas") {
			h.Errorf("%s: it says\n%s", name, said)
		}
	}
	alone := *h.site
	for _, args := range [][]string{{"ssh-setup"}, {"ssh-setup", "--check"}, {"--stanza=demo", "ssh-setup"}} {
		alone.fails(37, "no other host is configured", pgxPath(), args...)
	}
}

func (h *roleHosts) checks() {
	const other = "\n[other]\npg1-path=/nowhere\n"
	for _, way := range ways {
		account := fmt.Sprintf("%s@127.0.0.1:%d\n", h.account, map[string]int{"sshd": h.sshd.Port, "resident": h.ports["server"]}[way])
		agent := fmt.Sprintf("%s@127.0.0.1:%d\n", h.account, map[string]int{"sshd": h.sshd.Port, "resident": h.ports["agent"]}[way])
		where := map[string]string{
			"sshd":     "HINT: the command in the authorized_keys of this account grants roles (--role) and a stanza (--stanza); see pgx ssh-setup\n",
			"resident": "HINT: option SIDE-client of this host says what each key may do\n",
		}[way]
		for _, c := range []struct {
			site *site
			code int
			want []string
		}{
			{h.client(way, "db1", ""), 0, []string{
				"ok      repo1-host: role archive on stanza demo as " + account, "ok      repo1-host: role restore on stanza demo as " + account}},
			{h.client(way, "every", "", other), 0, []string{
				"ok      repo1-host: role archive on stanza demo as " + account, "ok      repo1-host: role restore on stanza other as " + account}},
			{h.client(way, "backup", h.repo), 0, []string{"ok      pg1-host: role backup on stanza demo as " + agent}},
			{h.client(way, "archive", ""), 105, []string{
				"ok      repo1-host: role archive on stanza demo as " + account, "failed  repo1-host: role restore on stanza demo: ",
				"is not granted role 'restore' on stanza 'demo'\n" + strings.ReplaceAll(where, "SIDE", "server"),
				"ERROR: [105]: 1 session could not be opened", "HINT: pgx ssh-setup without --check prints the lines for both hosts"}},
			{h.client(way, "db1", "", other), 105, []string{
				"ok      repo1-host: role restore on stanza demo as ", "is not granted role 'archive' on stanza 'other'\n",
				"is not granted role 'restore' on stanza 'other'\n", "ERROR: [105]: 2 sessions could not be opened"}},
			{h.client(way, "nobody", ""), 49, []string{
				"failed  repo1-host: role archive on stanza demo: '" + strings.TrimSpace(account) + "': log in: ", "ERROR: [049]: 2 sessions could not be opened"}},
			{h.client(way, "none", ""), 49, []string{"no key can be used; '" + filepath.Join(h.keys, "none") + "' does not exist"}},
		} {
			o := c.site.run(pgxPath(), "ssh-setup", "--check")
			for _, want := range c.want {
				if !strings.Contains(o.all(), want) {
					h.Errorf("%s, %s: there is no\n%s\nin\n%s", way, filepath.Base(c.site.conf), want, o.all())
				}
			}
			if o.code != c.code {
				h.Errorf("%s, %s: exit %d, want %d\n%s", way, filepath.Base(c.site.conf), o.code, c.code, o.all())
			}
		}
	}
}

// followed: the line that is printed for authorized_keys is good as it is, also while there is no repository.
func (h *roleHosts) followed() {
	keys := h.sshd.AuthorizedKeys
	before, err := os.ReadFile(keys)
	if err != nil {
		h.Fatal(err)
	}
	defer h.write(keys, string(before))
	sshtest.Keygen(h.T, filepath.Join(h.keys, "new"), "ed25519", "")
	h.own(filepath.Join(h.keys, "new"))
	h.write(filepath.Join(h.keys, "new.conf"), fmt.Sprintf("IdentityFile %s\nUserKnownHostsFile %s\n", filepath.Join(h.keys, "new"), filepath.Join(h.keys, "known_hosts")))
	c := h.client("sshd", "new", "")
	c.fails(49, "log in: ", pgxPath(), "ssh-setup", "--check")
	for line := range strings.SplitSeq(c.must(pgxPath(), "ssh-setup"), "\n") {
		if strings.HasPrefix(line, "restrict,") {
			h.write(keys, line+"\n")
			c.must(pgxPath(), "ssh-setup", "--check")
			h.write(keys, strings.Replace(line, " --stanza", " --repo1-path="+filepath.Join(h.dir, "missing")+" --stanza", 1)+"\n")
			said := c.must(pgxPath(), "ssh-setup", "--check")
			if strings.Count(said, "on stanza demo; there is no repository yet: stanza-create makes it\n") != 2 {
				h.Errorf("while there is no repository it says\n%s", said)
			}
			return
		}
	}
	h.Error("no line is printed for authorized_keys")
}
