package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgtest"
	"github.com/pgx-backup/pgx/protocol"
)

// thieves goes through the rows of the table of what a thief can do. What is in the tables of roles, in
// greetings and in names of files has been tried by then.
func (h *roleHosts) thieves() {
	rows := map[string]func(*roleHosts, string){
		"the key of a PostgreSQL host (`archive`, `restore`)": (*roleHosts).stolenKey,
		"that host itself, with PostgreSQL":                   (*roleHosts).stolenHost,
		"the key of the repository host (`backup`)":           (*roleHosts).stolenBackupKey,
		"the repository host itself":                          (*roleHosts).stolenRepository,
		"the network between":                                 (*roleHosts).stolenNetwork,
	}
	var documented []string
	for _, row := range docTable(h.T, "What a thief can do")[1:] {
		documented = append(documented, row[0])
	}
	if tried := slices.Sorted(maps.Keys(rows)); !slices.Equal(slices.Sorted(slices.Values(documented)), tried) {
		h.Fatalf("docs/security.md has the thieves %q, tried are %q", documented, tried)
	}
	for _, row := range documented {
		for _, way := range ways {
			h.Run(row+"/"+way, func(t *testing.T) { rows[row](h.with(t), way) })
		}
	}
}

// stolenKey reads all of its own stanza, adds WAL, and gets no further.
func (h *roleHosts) stolenKey(way string) {
	before := tree(h.T, h.repo)
	reading := h.session(way, "db1", "restore", "demo")
	given, err := h.do(reading, request{"list", "out", obj{"prefix": "backup/demo", "recurse": true}, ""})
	if err != nil {
		h.Fatal(err)
	}
	files := 0
	for line := range strings.Lines(given) {
		var o struct {
			Name, Type string
			Size       int
		}
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			h.Fatal(err)
		}
		if o.Type != "file" || files == 50 {
			continue
		}
		files++
		if content, err := h.do(reading, request{"open", "out", obj{"name": "backup/demo/" + o.Name}, ""}); err != nil || len(content) != o.Size {
			h.Errorf("'%s' has %d bytes, got %d, %v", o.Name, o.Size, len(content), err)
		}
	}
	if files < 20 {
		h.Errorf("a backup of %d files", files)
	}
	archive := h.session(way, "db1", "archive", "demo")
	name, content, put := h.wal()
	if _, err := h.do(archive, put); err != nil {
		h.Error(err)
	}
	other := content[:len(content)-1] + "\x07"
	if _, err := h.do(archive, putWAL(name, other, nil)); errs.CodeOf(err) != errs.ArchiveDuplicate {
		h.Errorf("a second segment: %v", err)
	}
	now := tree(h.T, h.repo)
	same(h.T, now, before, h.forged)
	if _, there := now["archive/demo/15-1/0000000100000001/"+name+"-"+put.args.(obj)["sha1"].(string)]; !there {
		h.Errorf("%s is not in the archive as it was added first", name)
	}
	h.noShell(way)
}

// noShell: nothing that OpenSSH's client can ask for runs a command, or leads further.
func (h *roleHosts) noShell(way string) {
	port, side := h.sshd.Port, h.ports["agent"]
	if way == "resident" {
		port = h.ports["server"]
	}
	trace := filepath.Join(h.outside, "trace")
	touch := "touch " + trace + "\n"
	for _, c := range []struct {
		args []string
		text string
		want string // on standard error
	}{
		{nil, "", ""}, {nil, "sh", ""}, {nil, touch, ""}, {[]string{"-tt"}, "", "PTY allocation request failed"},
		{[]string{"-s"}, "sftp", ""}, {[]string{"-W", fmt.Sprintf("127.0.0.1:%d", side)}, "", "administratively prohibited"},
		{[]string{"-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"}, "sh", "remote port forwarding failed"},
	} {
		args := append([]string{"-F", filepath.Join(h.keys, "db1.conf"), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
			"-p", fmt.Sprint(port)}, c.args...)
		args = append(args, h.account+"@127.0.0.1")
		if c.text != "" {
			args = append(args, c.text)
		}
		cmd := pgtest.Command(h.T, "ssh", args...)
		cmd.Stdin = strings.NewReader(touch + "echo shell\n" + "exit\n")
		if o := h.exec(cmd); strings.Contains(o.out, "shell") || !strings.Contains(o.err, c.want) {
			h.Errorf("ssh %q: exit %d\n%s", args, o.code, o.all())
		}
	}
	if _, err := os.Lstat(trace); err == nil {
		h.Error("a command was run")
	}
}

// stolenHost has pgx, the key and the configuration.
func (h *roleHosts) stolenHost(way string) {
	before := tree(h.T, h.repo)
	c := h.client(way, "db1", "")
	for _, command := range [][]string{{"backup"}, {"backup", "--type=full"}, {"stanza-create"}} {
		c.fails(105, "is not granted role 'admin' on stanza 'demo'", pgxPath(), append([]string{"--stanza=demo"}, command...)...)
	}
	forged := c.empty("forged-" + way)
	content, _, _ := h.wal()
	c.write(filepath.Join(forged, content), "no WAL")
	c.fails(29, content, pgxPath(), "--stanza=demo", "archive-push", filepath.Join(forged, content))
	if said := c.must(pgxPath(), "info"); !strings.Contains(said, "stanza: demo") || strings.Contains(said, "stanza: other") {
		h.Errorf("info says\n%s", said)
	}
	same(h.T, tree(h.T, h.repo), before, nil)
}

// stolenBackupKey reads everything in the data directory, and leaves no trace in it.
func (h *roleHosts) stolenBackupKey(way string) {
	h.pg.Stop(pgtest.Fast)
	defer h.pg.Start()
	before, outside := tree(h.T, h.pg.PGDATA), tree(h.T, h.dir)
	s := h.session(way, "backup", "backup", "demo")
	for _, call := range []string{"control", "running"} {
		if _, err := h.do(s, request{call: call}); err != nil {
			h.Errorf("%s: %v", call, err)
		}
	}
	given, err := h.do(s, request{"list-files", "out", obj{"version": 15, "catalog_version": h.catalog}, ""})
	if err != nil {
		h.Fatal(err)
	}
	files := 0
	for line := range strings.Lines(given) {
		var e struct{ Kind, Name string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			h.Fatal(err)
		}
		if e.Kind != "file" {
			continue
		}
		files++
		content, err := h.do(s, request{"read-file", "out", obj{"name": e.Name, "limit": -1, "compress": "none"}, ""})
		if size := before[strings.TrimPrefix(e.Name, "pg_data/")].size; err != nil || int64(len(content)) != size {
			h.Errorf("'%s' has %d bytes, got %d, %v", e.Name, size, len(content), err)
		}
	}
	if files < 500 {
		h.Errorf("the data directory has %d files", files)
	}
	same(h.T, tree(h.T, h.pg.PGDATA), before, nil)
	same(h.T, tree(h.T, h.dir), outside, func(name string) bool { // what the archiver leaves
		return strings.HasSuffix(name, ".log") || strings.HasPrefix(name, "spool")
	})
}

// stolenRepository has the key of the role backup and pgx: it cannot restore.
func (h *roleHosts) stolenRepository(way string) {
	before := tree(h.T, h.spare)
	c := h.client(way, "backup", h.repo)
	for _, delta := range []string{"--no-delta", "--delta"} {
		c.fails(105, "is not granted role 'restore-target' on stanza 'demo'", pgxPath(), "--stanza=demo", "restore", delta)
	}
	if now := tree(h.T, h.spare); !maps.Equal(now, before) {
		h.Errorf("the data directory was %v, and is %v", before, now)
	}
	if !h.pg.Running() || h.pg.QueryValue(`select 1`) != "1" {
		h.Error("the server does not run any more")
	}
}

// stolenNetwork sees what is sent, changes it, and poses as a host.
func (h *roleHosts) stolenNetwork(way string) {
	port, host := h.sshd.Port, h.sshd.HostKeys[0]
	if way == "resident" {
		port, host = h.ports["server"], h.hostKey("server")
	}
	read := request{"open", "out", obj{"name": "backup/demo/backup.info"}, ""}
	for _, from := range []int{-1, 40_000} { // bytes of the host's are changed from there on
		tap := newTap(h.T, port, from)
		s, err := h.via(tap.port, "restore", host, protocol.Hello{Role: "restore", Stanza: "demo"})
		content := ""
		for i := 0; err == nil && i < 100; i++ {
			content, err = h.do(s, read)
		}
		switch {
		case from < 0 && (err != nil || !strings.Contains(content, "[backup:current]")):
			h.Errorf("nothing is changed: %q, %v", content, err)
		case from >= 0 && errs.CodeOf(err) != errs.HostConnect:
			h.Errorf("what is changed arrives: %v", err)
		}
		seen := tap.end()
		if len(seen) < 10_000 {
			h.Errorf("only %d bytes were seen", len(seen))
		}
		for _, secret := range []string{"[backup:current]", "backup.info", "demo", `"role"`} {
			if bytes.Contains(seen, []byte(secret)) {
				h.Errorf("the network has seen %q", secret)
			}
		}
	}
	wrong := h.hostKey(map[string]string{"sshd": "server", "resident": "agent"}[way]) // another's
	_, err := h.via(port, "restore", wrong, protocol.Hello{Role: "restore", Stanza: "demo"})
	if errs.CodeOf(err) != errs.HostConnect || !strings.Contains(fmt.Sprint(err), "host key") {
		h.Errorf("a host with another key: %v", err)
	}
}

// tap is a listener between a client and a host.
type tap struct {
	port     int
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	ended bool
	conns []net.Conn
	seen  []byte // in both directions
}

// newTap makes a tap that changes each byte the host sends after the first from, if that is not negative.
func newTap(t *testing.T, port, from int) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &tap{port: l.Addr().(*net.TCPAddr).Port, listener: l}
	t.Cleanup(func() { _ = a.end() })
	a.running.Go(func() {
		client, err := l.Accept()
		if err != nil {
			return
		}
		a.own(client)
		host, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Error(err)
			return
		}
		a.own(host)
		a.running.Go(func() { a.carry(host, client, -1) })
		a.carry(client, host, from)
	})
	return a
}

// own takes a connection that ends with the tap.
func (a *tap) own(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns = append(a.conns, c)
	if a.ended {
		_ = c.Close()
	}
}

func (a *tap) carry(to, from net.Conn, change int) {
	defer to.Close()
	buf := make([]byte, 4096)
	for sum := 0; ; {
		n, err := from.Read(buf)
		a.mu.Lock()
		a.seen = append(a.seen, buf[:n]...)
		a.mu.Unlock()
		if sum += n; change >= 0 && sum > change && n > 0 {
			buf[n/2] ^= 1
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// end gives what the tap has seen.
func (a *tap) end() []byte {
	a.mu.Lock()
	a.ended = true
	for _, c := range a.conns {
		_ = c.Close()
	}
	a.mu.Unlock()
	_ = a.listener.Close()
	a.running.Wait()
	return a.seen
}
