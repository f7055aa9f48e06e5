package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/protocol/protocoltest"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage/posix"
)

// TestCipherKeys goes through the tables of docs/security.md that say which role gets which
// passphrase, and what one who has stolen them can read: all that a client in a role of the server can
// have, and all that an agent is told in a backup and a restore, is searched for each.
func TestCipherKeys(t *testing.T) {
	h := newRoleHosts(t, encrypted(nil))
	s := h.site
	agents := map[string]string{agent.RoleBackup: h.tappedBackup(), agent.RoleRestoreTarget: h.tappedRestore()}
	archive, backup, backups := passes(t, s.repo, "demo")
	label := format.Label(s.label())
	for l, p := range backups {
		if l.Full() != label.Full() && strings.Contains(agents[agent.RoleBackup], p) {
			t.Errorf("the agent is told the passphrase of the earlier backup '%s'", l)
		}
	}
	texts := map[string]string{"of the configuration": repoPass, "of WAL": archive, "of manifests": backup, "of the files of a backup": backups[label]}

	st, err := posix.New(s.repo, posix.Refuse)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	r := repo.New(st, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Poll: time.Millisecond, Pass: cipher.NewPass(repoPass)})
	seal := repo.Seal{Name: "repo1", Pass: cipher.NewPass(repoPass)}
	demo := func(stanza string) bool { return stanza == "demo" }
	services := map[string]protocol.Service{
		remote.RoleArchive: remote.ArchiveService(r, remote.ArchiveOptions{}),
		remote.RoleRestore: remote.StorageService(st, seal, demo, false), remote.RoleAdmin: remote.StorageService(st, seal, demo, true),
	}

	rows := docTable(t, "Encryption: which role gets which key")
	var documented []string
	for _, row := range rows[1:] {
		documented = append(documented, row[0])
	}
	if want := slices.Sorted(maps.Keys(texts)); !slices.Equal(slices.Sorted(slices.Values(documented)), want) {
		t.Fatalf("docs/security.md has the passphrases %q, there are %q", documented, want)
	}
	has := map[string][]string{} // by role, the passphrases that it gets
	for i, head := range rows[0][1:] {
		role := strings.Trim(head, "`")
		told, isAgent := agents[role]
		if service, ours := services[role]; ours {
			told = said(t, role, service)
			// What is told opens more.
			if strings.Contains(told, backup) {
				m, err := cipher.Open(cipher.NewPass(backup), []byte(object(t, role, service, format.ManifestPath("demo", label))))
				if err != nil {
					t.Errorf("role '%s' and a manifest: %v", role, err)
				}
				told += string(m)
			}
		} else if !isAgent {
			t.Fatalf("docs/security.md has the role '%s'", role)
		}
		has[role] = []string{}
		for _, row := range rows[1:] {
			got, cell := strings.Contains(told, texts[row[0]]), row[i+1]
			if got != (cell == "yes") || cell != "yes" && cell != "–" {
				t.Errorf("of the passphrase %s docs/security.md says %q for role '%s', which gets it: %t", row[0], cell, role, got)
			}
			if got {
				has[role] = append(has[role], texts[row[0]])
			}
		}
	}
	if len(has) != len(services)+len(agents) {
		t.Errorf("the table has %d roles", len(has))
	}
	h.stolen(has)
}

// stolen goes through the table of what can be read on a stolen host: has are the passphrases that
// roles get. A thief may have a copy of the repository's disk besides.
func (h *roleHosts) stolen(has map[string][]string) {
	h.Helper()
	conf := h.read(h.conf)
	_, section, _ := strings.Cut(conf, "\n[demo]\n")
	h.write(h.conf, conf+"\n[second]\n"+section)
	h.must(pgxPath(), "--stanza=second", "stanza-create")
	name, content, _ := h.wal()
	h.write(filepath.Join(h.empty("second"), name), content)
	h.must(pgxPath(), "--stanza=second", "archive-push", filepath.Join(h.dir, "second", name))
	all := map[string]bool{"demo info": true, "demo WAL": true, "demo manifest": true, "demo file": true, "second info": true, "second WAL": true}
	of := func(stanza string, kinds ...string) map[string]bool {
		m := map[string]bool{}
		for _, kind := range kinds {
			m[stanza+" "+kind] = true
		}
		return m
	}
	for _, stanza := range []string{"demo", "second"} { // what the repository host finds from its configuration on
		archive, backup, backups := passes(h.T, h.repo, stanza)
		has["repository"] = append(append(has["repository"], repoPass, archive, backup), slices.Collect(maps.Values(backups))...)
	}
	tries := map[string]struct {
		passes []string
		reads  map[string]bool
	}{
		"a PostgreSQL host with `archive`":                                       {has[remote.RoleArchive], of("demo", "WAL")},
		"a PostgreSQL host with `archive` and `restore`":                         {append(has[remote.RoleArchive], has[remote.RoleRestore]...), of("demo", "WAL", "manifest", "file")},
		"the repository host":                                                    {has["repository"], all},
		"the disk of the repository, or a copy of it, without the configuration": {nil, of("")},
	}
	for _, row := range docTable(h.T, "What a stolen host can read")[1:] {
		c, known := tries[row[0]]
		if !known {
			h.Errorf("docs/security.md has stolen %s", row[0])
			continue
		}
		delete(tries, row[0])
		if got := readable(h.T, h.repo, c.passes); !maps.Equal(got, c.reads) {
			h.Errorf("who has stolen %s reads %v, want %v", row[0], got, c.reads)
		}
	}
	if len(tries) > 0 {
		h.Errorf("docs/security.md does not have %v", tries)
	}
	// An agent is told less: of a backup its files, and nothing in a restore.
	if got := readable(h.T, h.repo, has[agent.RoleBackup]); !maps.Equal(got, of("demo", "file")) {
		h.Errorf("who has heard what role 'backup' is told reads %v", got)
	}
}

// readable gives what of an encrypted repository can be read with passphrases, such as "demo WAL".
func readable(t *testing.T, dir string, passes []string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, file := range regular(t, dir) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		top, rest, _ := strings.Cut(strings.TrimPrefix(file, dir+"/"), "/")
		stanza, rest, _ := strings.Cut(rest, "/")
		if stanza == "other" {
			continue // a copy of demo
		}
		kind := "file"
		switch {
		case format.IsInfoPath(top + "/" + stanza + "/" + rest):
			kind = "info"
		case top == "archive":
			kind = "WAL"
		case strings.Contains(rest, ".manifest"):
			kind = "manifest"
		}
		for _, pass := range passes {
			text, err := cipher.Open(cipher.NewPass(pass), b)
			// A padding can be right by chance.
			if err == nil && slices.ContainsFunc([]string{"[backrest]", "\x04\x22\x4d\x18", "\x1f\x8b", "START WAL"}, func(begin string) bool {
				return strings.HasPrefix(string(text), begin)
			}) {
				found[stanza+" "+kind] = true
			}
		}
	}
	return found
}

// tapped lets the key of a holder run a role of the agent on stanza demo, and gives what records all
// that goes in and out.
func (h *roleHosts) tapped(holder string) (in, out string) {
	h.Helper()
	dir := h.empty("tapped-" + holder)
	in, out = filepath.Join(dir, "in"), filepath.Join(dir, "out")
	command := fmt.Sprintf("tee -a %s | %s | tee -a %s", in, h.forced("agent", holder, "demo"), out)
	h.write(h.sshd.AuthorizedKeys, fmt.Sprintf("restrict,command=%q %s\n", command, h.public(holder)))
	return in, out
}

// cipherLines are encrypted as lines of a configuration.
var cipherLines = []string{"repo1-cipher-type=aes-256-cbc\n", "repo1-cipher-pass=" + repoPass + "\n"}

// tappedBackup makes backups from the repository host and gives all that the agent is told.
func (h *roleHosts) tappedBackup() string {
	h.Helper()
	in, out := h.tapped(agent.RoleBackup)
	c := h.client("sshd", agent.RoleBackup, h.repo, cipherLines...)
	h.needle()
	for _, kind := range []string{"full", "incr"} {
		c.must(pgxPath(), "--stanza=demo", "backup", "--type="+kind, "--start-fast", "--process-max=2", "--compress-type=lz4")
	}
	said := h.read(out)
	for _, needle := range needles {
		if needle != "pg_data/" && needle != "postgresql.auto.conf" && needle != "START WAL LOCATION" && needle != "CHECKPOINT LOCATION" &&
			needle != "needle_database" && strings.Contains(said, needle) { // names, and what PostgreSQL says at the end of a backup
			h.Errorf("%q leaves the PostgreSQL host in clear", needle)
		}
	}
	if len(said) < 1<<20 {
		h.Errorf("the agent says %d bytes", len(said))
	}
	return h.read(in)
}

// tappedRestore restores from the repository host and gives all that the agent is told.
func (h *roleHosts) tappedRestore() string {
	h.Helper()
	on := *h
	on.services = filepath.Join(h.dir, "spare.conf")
	h.write(on.services, strings.ReplaceAll(h.read(h.services), h.pg.PGDATA, h.spare))
	in, _ := on.tapped(agent.RoleRestoreTarget)
	c := on.client("sshd", agent.RoleRestoreTarget, h.repo, cipherLines...)
	h.write(c.conf, strings.ReplaceAll(h.read(c.conf), h.pg.PGDATA, h.spare))
	c.must(pgxPath(), "--stanza=demo", "restore", "--type=none")
	told := h.read(in)
	if !strings.Contains(told, "plaintext-needle 1") || !strings.Contains(told, "[backup:target]") {
		h.Errorf("the agent is told neither the files nor the manifest, but %d bytes", len(told))
	}
	return told
}

// session opens a session with a service in this process.
func session(t *testing.T, role string, service protocol.Service) *protocol.Session {
	t.Helper()
	config := protocol.Config{Peer: "peer", Program: "pgx-test", Silence: time.Minute}
	near, far := protocoltest.Pipe(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		_ = protocol.Serve(context.WithoutCancel(t.Context()), far, config, func(context.Context, protocol.Hello) (protocol.Service, error) { return service, nil })
	})
	s, err := protocol.Open(t.Context(), near, protocol.Hello{Role: role, Stanza: "demo"}, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		serving.Wait()
	})
	return s
}

// object gives an object as a client in a role sees it.
func object(t *testing.T, role string, service protocol.Service, name string) string {
	t.Helper()
	in, err := session(t, role, service).Receive(t.Context(), "open", obj{"name": name})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(in)
	if err := errors.Join(err, in.Close()); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// said gives all that a client in a role can be told of an encrypted stanza.
func said(t *testing.T, role string, service protocol.Service) string {
	t.Helper()
	s := session(t, role, service)
	var all strings.Builder
	for name, args := range map[string]any{
		"archive-id": nil, "archive-ids": obj{"version": "15", "system_id": "1"}, "describe": nil,
	} {
		var answer map[string]any
		if err := s.Call(t.Context(), name, args, &answer); err == nil {
			for _, v := range answer {
				if text, is := v.(string); is {
					all.WriteString(text + "\n")
				}
			}
		} else {
			all.WriteString(err.Error() + "\n")
		}
	}
	for _, name := range []string{format.ArchiveInfoPath("demo"), format.BackupInfoPath("demo")} {
		for _, suffix := range []string{"", format.CopySuffix} {
			if role != remote.RoleArchive {
				all.WriteString(object(t, role, service, name+suffix))
			}
		}
	}
	return all.String()
}
