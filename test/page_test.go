package test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// pageName is the page that newcomers follow, and that TestPage follows.
const pageName = "docs/hosts.md"

// item is a block of the page, which is run, or one of its paragraphs, as one line.
type item struct {
	line       int // of the page
	host, user string
	text       string
}

func (i item) isBlock() bool  { return i.host != "" }
func (i item) String() string { return fmt.Sprintf("%s:%d", pageName, i.line) }

// readPage gives what the page consists of. Every block of it can be run: it says where, and
// as whom.
func readPage(t *testing.T) []item {
	t.Helper()
	content, err := os.ReadFile("../" + pageName)
	if err != nil {
		t.Fatal(err)
	}
	where := regexp.MustCompile(`^# on (\S+), as (\S+)$`)
	var all []item
	inBlock, inParagraph := false, false
	n := 0
	for line := range strings.Lines(string(content)) {
		n++
		line = strings.TrimSuffix(line, "\n")
		switch last := len(all) - 1; {
		case strings.HasPrefix(line, "```"):
			inBlock, inParagraph = !inBlock, false
			if inBlock && line != "```sh" {
				t.Fatalf("%s:%d: a block that is not for sh", pageName, n)
			} else if inBlock {
				all = append(all, item{line: n + 1})
			}
		case inBlock && all[last].host == "":
			m := where.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("%s:%d: '%s' does not say on which host and as whom the block is typed", pageName, n, line)
			}
			all[last].host, all[last].user = m[1], m[2]
		case inBlock:
			all[last].text += line + "\n"
		case strings.TrimSpace(line) == "":
			inParagraph = false
		case inParagraph:
			all[last].text += " " + strings.TrimSpace(line)
		default:
			all = append(all, item{line: n, text: strings.TrimSpace(line)})
			inParagraph = true
		}
	}
	return all
}

// reader does what the page says, on hosts as bare as it assumes.
type reader struct {
	*testing.T
	hosts   map[string]*host
	advices []*advice // what ssh-setup printed and was not followed yet
	last    outcome   // of the last block
}

// TestPage does what the page says: its blocks are run, and each of the sentences below,
// which ask for what is not a command or promise something, has its function, when its turn comes.
func TestPage(t *testing.T) {
	sentences := []struct {
		text string
		do   func(*reader)
	}{
		{"Do on both hosts what it says.", (*reader).setUpBoth},
		{"`pgx info` on `db1` shows the same.", (*reader).sameInfo},
		{"Put the line that begins with `server-client=` into the section `[global]` of `/etc/pgbackrest/pgbackrest.conf` on `backup1`",
			(*reader).grantServer},
		{"Then the two commands on `db1` that `pgx ssh-setup` has printed for the host key; the last line above is what to compare with.",
			(*reader).trustServer},
		{"From now on `db1` archives and restores through the service", (*reader).leaveSSHD},
		{"The line of `db1` in `~pgbackrest/.ssh/authorized_keys` can go. After a change of `server-client`, `systemctl reload pgx-server`.",
			(*reader).reloadServer},
		{"The other way round works too", (*reader).residentAgent},
	}
	n := newNetwork(t)
	r := &reader{T: t, hosts: map[string]*host{"backup1": n.host("backup1", "pgbackrest"), "db1": n.host("db1", "postgres")}}
	for _, h := range r.hosts {
		strip(h)
		newSystemd(h)
	}
	next := 0
	for _, i := range readPage(t) {
		if i.isBlock() {
			r.block(i)
			continue
		}
		for next < len(sentences) && strings.Contains(i.text, sentences[next].text) {
			sentences[next].do(r)
			next++
		}
	}
	if next < len(sentences) {
		t.Fatalf("%s does not say, or not in this place: %s", pageName, sentences[next].text)
	}
	// Of the options that only pgx has it would warn.
	verify := []string{"pgbackrest", "--no-config", "--repo1-path=/var/lib/pgbackrest", "--stanza=main", "verify", "--output=text"}
	if said := r.on("backup1", "pgbackrest").must(verify...); strings.TrimSpace(said) != "" {
		t.Errorf("pgbackrest verify says\n%s", said)
	}
	for _, h := range r.hosts {
		stopServices(h)
		h.idle()
	}
}

// strip takes from a host what a Debian with sshd and PostgreSQL does not have, and gives it
// what Debian's packages of PostgreSQL make, and the directory conf of the sources, where root
// is after a login.
func strip(h *host) {
	h.Helper()
	h.as("root").must("bash", "-ec", `
		rm -r /etc/pgbackrest /etc/pgx /var/{lib,log,spool}/pgbackrest /var/lib/pgx /tmp/pgbackrest /home/pgbackrest
		sed -i /^pgbackrest:/d /etc/passwd /etc/shadow /etc/group
		install -d -o postgres -g postgres /etc/postgresql
		install -d -o root -g postgres -m 1775 /var/log/postgresql`)
	if err := os.CopyFS(h.path("/root/conf"), os.DirFS("../conf")); err != nil {
		h.Fatal(err)
	}
}

func (r *reader) on(host, user string) *host {
	r.Helper()
	h := r.hosts[host]
	if h == nil {
		r.Fatalf("%s speaks of a host '%s'", pageName, host)
	}
	return h.as(user)
}

// block runs a block, and looks at what it said where the page makes a promise.
func (r *reader) block(i item) {
	r.Helper()
	// Line numbers are those of the page.
	script := strings.Repeat("\n", i.line-1) + `trap 'echo "line $LINENO, exit $?: $BASH_COMMAND" >&2' ERR` + "\n" + i.text
	h := r.on(i.host, i.user)
	if r.last = h.run("bash", "-e", "-c", script); r.last.code != 0 {
		r.Fatalf("%s on '%s' as '%s' fails\n%s", i, i.host, i.user, r.last.all())
	}
	said := strings.TrimSpace(r.last.out)
	for line := range strings.Lines(i.text) {
		switch strings.TrimSpace(line) {
		case "pgx ssh-setup":
			r.advices = append(r.advices, r.advice(h, said))
		case "pgx ssh-setup --check":
			roles := []string{"backup"}
			if i.host == "db1" {
				roles = []string{"archive", "restore"}
			}
			for n, role := range roles {
				lines := strings.Split(said, "\n")
				if n >= len(lines) || !regexp.MustCompile(`^ok .* role `+role+` on stanza main `).MatchString(lines[n]) {
					r.Errorf("%s: role '%s' is not ok\n%s", i, role, said)
				}
			}
		case "pgx info":
			if !strings.Contains(said, "status: ok") || !strings.Contains(said, "full backup: ") {
				r.Errorf("%s: info says\n%s", i, said)
			}
		case `psql -Atc "select count(*) from precious"`:
			if !strings.HasSuffix("\n"+said, "\n1000") {
				r.Errorf("%s: the table has not come back\n%s", i, said)
			}
		}
	}
}

// advice is what pgx ssh-setup prints.
type advice struct {
	on       *host    // the host it was printed on
	commands []string // that are typed there
	show     string   // the command that shows the other's host key
	other    *host    // in the account that is logged in to
	entry    string   // a line of authorized_keys there
	grant    string   // or a line of the configuration
}

// advice takes to pieces what was printed. All that is not for people to read is used.
func (r *reader) advice(on *host, text string) *advice {
	r.Helper()
	a := &advice{on: on}
	keys := regexp.MustCompile(`^# on (\S+), as (\S+): one line of ~/\.ssh/authorized_keys \(mode 600\)$`)
	show := regexp.MustCompile(`^# (ssh-keygen -lf \S+) on \S+$`)
	for line := range strings.SplitSeq(text, "\n") {
		switch k, s := keys.FindStringSubmatch(line), show.FindStringSubmatch(line); {
		case k != nil:
			a.other = r.on(k[1], k[2])
		case s != nil:
			a.show = s[1]
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "ssh-"):
			a.commands = append(a.commands, line)
		case strings.HasPrefix(line, "restrict,"):
			a.entry = line
		case strings.HasPrefix(line, "server-client=") || strings.HasPrefix(line, "agent-client="):
			a.grant = line
		default:
			r.Errorf("pgx ssh-setup on '%s' prints what is neither command nor comment nor line of a file: %s", on.name, line)
		}
	}
	if len(a.commands) != 2 || a.show == "" || a.other == nil || a.entry == "" || a.grant == "" || a.other.name == on.name {
		r.Fatalf("pgx ssh-setup on '%s' does not print all that is needed\n%s", on.name, text)
	}
	return a
}

// taken gives the advice that was printed last.
func (r *reader) taken() *advice {
	r.Helper()
	if len(r.advices) == 0 {
		r.Fatalf("in this place, %s has not asked for pgx ssh-setup", pageName)
	}
	a := r.advices[len(r.advices)-1]
	r.advices = r.advices[:len(r.advices)-1]
	return a
}

// trust makes the other host known, and compares its key with what is shown there.
func (a *advice) trust(shown string) {
	a.on.Helper()
	said := a.on.must("bash", "-ec", strings.Join(a.commands, "\n"))
	if got, want := fingerprint(said), fingerprint(shown); got == "" || got != want {
		a.on.Fatalf("on '%s', the host key of '%s' is shown as '%s', there as '%s'\n%s", a.on.name, a.other.name, got, want, said)
	}
}

// fingerprint gives that of the last line of what ssh-keygen -l says: "256 SHA256:… db1 (ED25519)".
func fingerprint(said string) string {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	if f := strings.Fields(lines[len(lines)-1]); len(f) > 1 && strings.HasPrefix(f[1], "SHA256:") {
		return f[1]
	}
	return ""
}

// permit puts the line for the configuration of the other host into its section [global].
func (a *advice) permit() {
	a.on.Helper()
	root := a.other.as("root")
	conf := root.read(pageConf)
	root.write(pageConf, strings.Replace(conf, "[global]\n", "[global]\n"+a.grant+"\n", 1), 0o644)
}

const pageConf = "/etc/pgbackrest/pgbackrest.conf"

func (r *reader) setUpBoth() {
	for range 2 {
		a := r.taken()
		a.trust(a.other.must("bash", "-ec", a.show))
		a.other.authorize(a.entry)
	}
}

func (r *reader) sameInfo() {
	for _, output := range []string{"text", "json"} {
		here := r.on("db1", "postgres").must("pgx", "info", "--output="+output)
		there := r.on("backup1", "pgbackrest").must("pgx", "info", "--output="+output)
		if here != there {
			r.Errorf("info --output=%s on 'db1':\n%s\nand on 'backup1':\n%s", output, here, there)
		}
	}
}

func (r *reader) grantServer() {
	a := r.taken()
	r.advices = append(r.advices, a) // its other half comes later
	a.permit()
}

func (r *reader) trustServer() { r.taken().trust(r.last.out) }

// leaveSSHD takes away the other way there is.
func (r *reader) leaveSSHD() { r.hosts["backup1"].stopSSHD() }
