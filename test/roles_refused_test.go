package test

import (
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol"
)

// greetings: whatever a client says of itself, it gets what its key was granted, or why not.
func (h *roleHosts) greetings(way string) {
	path := func(p string) string { return `{"path":"` + p + `"}` }
	where := map[string]string{"sshd": "the command in the authorized_keys", "resident": "-client of this host says what each key may do"}[way]
	const denied = "is not granted role 'ROLE' on stanza 'STANZA'"
	for _, c := range []struct {
		holder, role, stanza, args string
		code                       errs.Code
		want                       string
	}{
		{"archive", "restore", "demo", "", errs.Access, denied},
		{"archive", "admin", "demo", "", errs.Access, denied},
		{"archive", "archive", "other", "", errs.Access, denied},
		{"archive", "archive", "*", "", errs.Access, denied},
		{"archive", "archive", "../demo", "", errs.Access, denied},
		{"archive", "archive", "Demo", "", errs.Access, denied},
		{"archive", "archive,admin", "demo", "", errs.Access, denied},
		{"archive", "", "demo", "", errs.Access, denied},
		{"archive", "archive\n2030-01-01 00:00:00.000 P00   INFO: forged", "demo", "", errs.ParamInvalid, "the client gives as role what cannot be one"},
		{"archive", "archive", "\x1b[2J", "", errs.ParamInvalid, "the client gives as stanza what cannot be one"},
		{"archive", "archive", strings.Repeat("x", 256), "", errs.ParamInvalid, "the client gives as stanza what cannot be one"},
		{"archive", "superuser", "demo", "", errs.Access, denied},
		{"archive", "backup", "demo", path(h.pg.PGDATA), errs.Access, denied},
		{"archive", "archive", "", "", errs.OptionRequired, "role 'archive' needs a stanza"},
		{"archive", "restore", "", "", errs.Access, "is not granted role 'restore' on any stanza"},
		{"archive", "admin", "", "", errs.Access, "is not granted role 'admin' on any stanza"},
		{"restore", "archive", "demo", "", errs.Access, denied},
		{"restore", "admin", "demo", "", errs.Access, denied},
		{"restore", "restore", "other", "", errs.Access, denied},
		{"restore", "restore", "demo", `{"repo":1,"locks":["backup"]}`, errs.Access, "role 'restore' may not lock anything"},
		{"archive", "archive", "demo", `{"repo":1,"locks":["archive"]}`, errs.Access, "role 'archive' may not lock anything"},
		{"admin", "archive", "demo", "", errs.Access, denied},
		{"admin", "admin", "other", "", errs.Access, denied},
		{"db1", "admin", "demo", "", errs.Access, denied},
		{"every", "restore", "../demo", "", errs.OptionInvalidValue, "'../demo'"},
		{"every", "restore", "demo/../other", "", errs.OptionInvalidValue, "'demo/../other'"},
		{"every", "archive", "demo", `{"repo":2}`, errs.OptionRequired, "no repository with number 2"},
		{"every", "admin", "demo", `{"repo":-1}`, errs.OptionRequired, "no repository with number -1"},
		{"backup", "restore-target", "demo", "", errs.Access, denied},
		{"backup", "restore-target", "spare", "", errs.Access, denied},
		{"backup", "backup", "spare", "", errs.Access, denied},
		{"backup", "admin", "demo", "", errs.Access, denied},
		{"backup", "backup", "", "", errs.OptionRequired, "role 'backup' needs a stanza"},
		{"backup", "restore-target", "", "", errs.Access, "is not granted role 'restore-target' on any stanza"},
		{"backup", "backup", "demo", path("/"), errs.DbMismatch, "has no data directory '/'"},
		{"backup", "backup", "demo", path(h.spare), errs.DbMismatch, "has no data directory '" + h.spare + "'"},
		{"backup", "backup", "demo", path(h.pg.PGDATA + "/../.."), errs.DbMismatch, "has no data directory"},
		{"backup", "backup", "demo", `{"path":"` + h.pg.PGDATA + `","locks":["../x"],"repos":[1]}`, errs.ParamInvalid, "\"../x\" is no type of lock"},
		{"backup", "backup", "demo", `{"path":"` + h.pg.PGDATA + `","locks":["backup"],"repos":[257]}`, errs.ParamInvalid, "257 is no number of a repository"},
		{"restore-target", "backup", "spare", "", errs.Access, denied},
		{"restore-target", "restore-target", "demo", "", errs.Access, denied},
	} {
		hello := protocol.Hello{Role: c.role, Stanza: c.stanza}
		if c.args != "" {
			hello.Args = json.RawMessage(c.args)
		}
		_, err := h.hello(way, c.holder, "pgx", hello)
		want := strings.NewReplacer("ROLE", c.role, "STANZA", c.stanza).Replace(c.want)
		if errs.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), want) || strings.Contains(want, "is not granted") && !strings.Contains(err.Error(), where) {
			h.Errorf("'%s' as '%s' on '%s' %s: [%d] %v\nwant [%d] %s", c.holder, c.role, c.stanza, c.args, errs.CodeOf(err), err, c.code, want)
		}
	}
	if _, err := h.hello(way, "nobody", "pgx", protocol.Hello{Role: "archive", Stanza: "demo"}); errs.CodeOf(err) != errs.HostConnect {
		h.Errorf("with a key that nobody knows: %v", err)
	}
}

// commands: what the other host is asked to run means nothing.
func (h *roleHosts) commands(way string) {
	trace := filepath.Join(h.outside, "trace")
	for _, command := range []string{
		pgxPath() + " --config=" + h.services + " --role=admin server --stdio",
		pgxPath() + " --config=" + h.services + " --role=archive --role=admin --repo1-path=" + h.outside + " server --stdio",
		pgxPath() + " --config=" + h.services + " --role=restore-target agent --stdio",
		"sh", "touch " + trace, "pgx; touch " + trace, "$(touch " + trace + ")",
	} {
		s, err := h.hello(way, "archive", command, protocol.Hello{Role: "archive", Stanza: "demo"})
		if err != nil {
			h.Errorf("asked for '%s': %v", command, err)
			continue
		}
		if _, err := h.do(s, request{call: "archive-id"}); err != nil {
			h.Errorf("asked for '%s': %v", command, err)
		}
		for _, role := range []string{"admin", "restore-target"} {
			if _, err := h.hello(way, "archive", command, protocol.Hello{Role: role, Stanza: "demo"}); errs.CodeOf(err) != errs.Access {
				h.Errorf("asked for '%s', role '%s': %v", command, role, err)
			}
		}
	}
	if _, err := os.Lstat(trace); err == nil {
		h.Error("a command was run")
	}
}

// lies: WAL that is not what it is said to be gets no name in the archive, and what is
// there stays as it is. Of what is not WAL the role sees nothing.
func (h *roleHosts) lies(way string) {
	s := h.session(way, "archive", "archive", "demo")
	stored, _, put := h.wal()
	if _, err := h.do(s, put); err != nil {
		h.Fatal(err)
	}
	name, content, _ := h.wal()
	with := func(content string, at int, b byte) string { return content[:at] + string([]byte{b}) + content[at+1:] }
	before := tree(h.T, h.repo)
	for what, c := range map[string]struct {
		r    request
		code errs.Code
		want string
	}{
		"hash":            {putWAL(name, content, obj{"sha1": fmt.Sprintf("%x", sha1.Sum(nil))}), errs.Checksum, name},
		"no hash":         {putWAL(name, content, obj{"sha1": ""}), errs.Checksum, name},
		"address":         {putWAL(stored[:23]+"F", content, nil), errs.Format, "WAL header is that of the segment at"},
		"timeline":        {putWAL(name, with(content, 4, 9), nil), errs.Format, "WAL header is of timeline 9"},
		"version":         {putWAL(name, with(content, 0, 0x0d), nil), errs.ArchiveMismatch, "do not match stanza version 15"},
		"system id":       {putWAL(name, with(content, 24, content[24]+1), nil), errs.ArchiveMismatch, "do not match stanza version 15"},
		"no WAL":          {putWAL(name, strings.Repeat("\x00", len(content)), nil), errs.Format, name},
		"half":            {putWAL(name, content[:len(content)/2], nil), errs.FileInvalid, name},
		"longer":          {putWAL(name, content+"x", nil), errs.FileInvalid, name},
		"codec":           {putWAL(name, content, obj{"compress": "../x"}), errs.Format, "'../x'"},
		"archive id":      {putWAL(name, content, obj{"archive_id": "15-2"}), errs.ArchiveMismatch, "'15-2'"},
		"path as id":      {putWAL(name, content, obj{"archive_id": "../other/15-1"}), errs.Format, "'../other/15-1'"},
		"path":            {putWAL("../../../backup/demo/"+name, content, nil), errs.Format, "is not the name of a WAL segment"},
		"other file":      {putWAL("archive.info", content, nil), errs.Format, "is not the name of a WAL segment"},
		"path in history": {putWAL("../00000002.history", "1\t0/1\n", obj{"sha1": ""}), errs.Format, "is not the name of a WAL segment"},
		"object":          {putWAL(name, content, obj{"object": "backup/demo/backup.info"}), errs.Protocol, "unknown field"},
		"replace":         {putWAL(stored, with(put.data, len(content)-1, content[len(content)-1]+1), nil), errs.ArchiveDuplicate, "already exists in the repo1 archive with a different checksum"},

		"find path":   {request{"wal-find", "", obj{"archive_ids": []string{"15-1"}, "name": "../../backup/demo/backup.info"}, ""}, errs.Format, "is not the name of"},
		"find id":     {request{"wal-find", "", obj{"archive_ids": []string{"../other/15-1"}, "name": stored}, ""}, errs.Format, "'../other/15-1'"},
		"get a path":  {request{"wal-get", "out", obj{"name": stored, "archive_id": "15-1", "file": "../../../backup/demo/backup.info"}, ""}, errs.FileMissing, "is not in the repo1 archive"},
		"get no WAL":  {request{"wal-get", "out", obj{"name": "archive.info", "archive_id": "15-1", "file": "archive.info"}, ""}, errs.Format, "is not the name of"},
		"get a theft": {request{"wal-get", "out", obj{"name": "backup.manifest", "archive_id": "15-1", "file": "backup.manifest"}, ""}, errs.Format, "is not the name of"},
		"foreign ids": {request{"archive-ids", "", obj{"version": "15", "system_id": "1"}, ""}, errs.ArchiveMismatch, "system-id '1'"},
	} {
		if _, err := h.do(s, c.r); errs.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.want) {
			h.Errorf("%s: [%d] %v\nwant [%d] %s", what, errs.CodeOf(err), err, c.code, c.want)
		}
	}
	same(h.T, tree(h.T, h.repo), before, nil)
}

// objects: names of objects lead nowhere but into the stanza, whatever links there are.
func (h *roleHosts) objects(way string) {
	for name, target := range map[string]string{
		"out": h.outside, "file": filepath.Join(h.outside, "secret"), "up": "../../../outside", "root": "/",
	} {
		h.link(target, filepath.Join(h.repo, "backup/demo", name))
	}
	before, outside := tree(h.T, h.repo), h.names(h.outside)
	reading, admin := h.session(way, "restore", "restore", "demo"), h.session(way, "admin", "admin", "demo")
	for name, want := range map[string]string{
		"../outside/secret": "is not a name of an object", "/etc/passwd": "is not a name of an object",
		"archive/../../outside/secret": "is not a name of an object", "backup/demo/../other/backup.info": "is not a name of an object",
		"backup/demo//backup.info": "is not a name of an object", "backup/demo/": "is not a name of an object", ".": "is not a name of an object",
		"backup/demo/\x00": "is not a name of an object",
		"secret":           "belongs to no stanza", "backup.info": "belongs to no stanza", "archives/demo/x": "belongs to no stanza",
		"archive/other": "access to stanza 'other' is not granted", "archive/other/archive.info": "access to stanza 'other' is not granted",
		"backup/demo2/backup.info": "access to stanza 'demo2' is not granted", "backup/*/backup.info": "access to stanza '*' is not granted",
		"backup/demo/out/secret": "leads out of the repository", "backup/demo/up/secret": "leads out of the repository",
		"backup/demo/root/etc/passwd": "leads out of the repository",
	} {
		one := obj{"name": name}
		for _, s := range []*protocol.Session{reading, admin} {
			requests := []request{{"open", "out", one, ""}, {"stat", "", one, ""}, {"list", "out", obj{"prefix": name}, ""}}
			if s == admin {
				requests = append(requests, request{"put", "in", obj{"name": name, "how": "atomic"}, "x"}, request{"put", "in", obj{"name": name, "how": "exclusive"}, "x"},
					request{"make-dir", "", one, ""}, request{"remove", "", obj{"names": []string{name}}, ""}, request{"remove-all", "", one, ""}, request{"sync", "", one, ""},
					request{"link", "", obj{"old": name, "new": "backup/demo/linked"}, ""}, request{"link", "", obj{"old": "backup/demo/backup.info", "new": name}, ""})
			}
			for _, r := range requests {
				given, err := h.do(s, r)
				if code := errs.CodeOf(err); code != errs.Access && code != errs.ParamInvalid || !strings.Contains(err.Error(), want) || given != "" {
					h.Errorf("%s %v gives %q, [%d] %v\nwant %s", r.call, r.args, given, errs.CodeOf(err), err, want)
				}
			}
		}
	}
	// The link itself is seen, and not what it leads to.
	for call, want := range map[string]string{"open": "leads out of the repository", "link": "is not a file, it is not given another name"} {
		r := request{call, map[string]string{"open": "out"}[call], obj{"name": "backup/demo/file"}, ""}
		if call == "link" {
			r.args = obj{"old": "backup/demo/file", "new": "backup/demo/linked"}
		}
		if _, err := h.do(admin, r); errs.CodeOf(err) != errs.Access || !strings.Contains(fmt.Sprint(err), want) {
			h.Errorf("%s of a link: %v, want %s", call, err, want)
		}
	}
	for prefix, lists := range map[string][]string{"": {"archive", "backup"}, "archive": {"demo"}, "backup": {"demo"}} {
		for _, recurse := range []bool{false, true} {
			given, err := h.do(reading, request{"list", "out", obj{"prefix": prefix, "recurse": recurse}, ""})
			for _, name := range listed(h.T, given) {
				if strings.Contains(name, "other") || strings.Contains(name, "secret") || !slices.Contains(lists, name) && !(recurse && strings.Contains(name, "/")) {
					h.Errorf("'%s' has '%s'", prefix, name)
				}
			}
			if err != nil || given == "" {
				h.Errorf("list '%s' gives %q, %v", prefix, given, err)
			}
		}
	}
	same(h.T, tree(h.T, h.repo), before, nil)
	if now := h.names(h.outside); !slices.Equal(now, outside) {
		h.Errorf("outside of the repository were %q, and are %q", outside, now)
	}
}

// listed gives the names of a listing.
func listed(t *testing.T, text string) (names []string) {
	t.Helper()
	for line := range strings.Lines(text) {
		var o struct{ Name string }
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		names = append(names, o.Name)
	}
	return names
}

// names gives what is directly in a directory.
func (h *roleHosts) names(dir string) (names []string) {
	h.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		h.Fatal(err)
	}
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

// files: of the PostgreSQL host the role backup reads what a backup has, and nothing else.
func (h *roleHosts) files(way string) {
	for name, target := range map[string]string{
		"direct": filepath.Join(h.outside, "secret"), "chain": filepath.Join(h.dir, "elsewhere"), "pg_tblspc/99999": h.outside, "base/loop": "loop",
	} {
		h.link(target, filepath.Join(h.pg.PGDATA, name))
	}
	h.link(filepath.Join(h.outside, "secret"), filepath.Join(h.dir, "elsewhere"))
	pipe := filepath.Join(h.pg.PGDATA, "pipe")
	if err := syscall.Mkfifo(pipe, 0o666); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = os.Remove(pipe) })
	s := h.session(way, "backup", "backup", "demo")
	const noName = "is not the name of a file in a data directory"
	for name, c := range map[string]struct {
		code errs.Code
		want string
	}{
		"pg_data/PG_VERSION": {0, "15\n"},
		"pg_data/direct":     {0, "secret\n"}, // a link of the data directory belongs to its backup
		"/etc/passwd":        {errs.ParamInvalid, noName}, "../../etc/passwd": {errs.ParamInvalid, noName}, "etc/passwd": {errs.ParamInvalid, noName},
		"pg_data": {errs.ParamInvalid, noName}, "pg_data/": {errs.ParamInvalid, noName}, "pg_data/../PG_VERSION": {errs.ParamInvalid, noName},
		"pg_data/../../../etc/passwd": {errs.ParamInvalid, noName}, "pg_data//etc/passwd": {errs.ParamInvalid, noName}, "pg_data/\x00": {errs.ParamInvalid, noName},
		"pg_data/pg_tblspc/99999/secret": {errs.ParamInvalid, noName}, "pg_tblspc/99999/secret": {errs.ParamInvalid, noName},
		"pg_tblspc/99999/../../PG_VERSION": {errs.ParamInvalid, noName}, "pg_tblspc/../PG_1/x": {errs.ParamInvalid, noName},
		"pg_tblspc/99999/PG_15_202209061/secret": {errs.FileMissing, "missing file"},
		"pg_data/chain":                          {errs.LinkDestination, "cannot reference another link"}, "pg_data/base/loop": {errs.LinkDestination, "cannot reference another link"},
		"pg_data/base": {errs.FileOpen, "not a regular file"}, "pg_data/pipe": {errs.FileOpen, "not a regular file"},
	} {
		given, err := h.do(s, request{"read-file", "out", obj{"name": name, "limit": -1, "compress": "none"}, ""})
		said := given
		if err != nil {
			said = err.Error()
		}
		if errs.CodeOf(err) != c.code || !strings.Contains(said, c.want) || err != nil && given != "" {
			h.Errorf("read-file %q gives %q, [%d] %v\nwant [%d] %s", name, given, errs.CodeOf(err), err, c.code, c.want)
		}
	}
}

// link makes a symbolic link that is gone when the test ends.
func (h *roleHosts) link(target, name string) {
	h.Helper()
	if err := os.Symlink(target, name); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = os.Remove(name) })
}

// targets: names of files to be restored lead nowhere but into the data directory, and no data directory
// of a server is written to.
func (h *roleHosts) targets(way string) {
	h.wipe()
	s := h.session(way, "restore-target", "restore-target", "spare")
	for _, r := range h.requests("agent") {
		if !slices.Contains([]string{"check", "inspect", "begin"}, r.call) {
			continue
		}
		if _, err := h.do(s, r); err != nil {
			h.Fatal(err)
		}
	}
	h.link(h.outside, filepath.Join(h.spare, "out"))
	h.link(filepath.Join(h.outside, "secret"), filepath.Join(h.spare, "stolen"))
	outside := tree(h.T, h.outside)
	sum := sha1.Sum([]byte("x"))
	for _, name := range []string{"../x", "/x", "x/../../x", "out/x", "out/secret", "stolen", "", ".", "..", "\x00"} {
		requests := []request{{"read-small", "out", obj{"name": name}, ""}}
		if name != "stolen" { // to write under that name replaces the link
			requests = append(requests, request{"write-small", "in", obj{"name": name}, "x"},
				request{"put-file", "in", obj{"name": "pg_data/" + name, "mode": 0o600, "size": 1, "mtime": obj{"s": 1}, "sha1": sum[:]}, "x"})
		}
		for _, r := range requests {
			given, err := h.do(s, r)
			if code := errs.CodeOf(err); given != "" || err == nil || code == errs.Assert || strings.Contains(err.Error(), "internal error") {
				h.Errorf("%s %q gives %q, [%d] %v", r.call, name, given, code, err)
			}
		}
	}
	if now := tree(h.T, h.outside); len(now) != len(outside) || now["secret"] != outside["secret"] {
		h.Errorf("outside was %v, and is %v", outside, now)
	}
}
