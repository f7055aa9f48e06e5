package test

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/agent"
	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/remote"
)

type obj map[string]any

// request is a call with arguments that make sense. Its data goes "in", "out" or "both", if any.
type request struct {
	call, way string
	args      any
	data      string
}

// do makes the call and gives the data that came.
func (h *roleHosts) do(s *protocol.Session, r request) (string, error) {
	switch r.way {
	case "in":
		return "", s.Send(h.Context(), r.call, r.args, strings.NewReader(r.data), nil)
	case "out", "both":
		in, err := h.receive(s, r)
		if err != nil {
			return "", err
		}
		var b bytes.Buffer
		_, err = io.Copy(&b, in)
		return b.String(), errors.Join(err, in.Close())
	}
	return "", s.Call(h.Context(), r.call, r.args, nil)
}

// receive begins a call that gives data, and may take some.
func (h *roleHosts) receive(s *protocol.Session, r request) (*protocol.Stream, error) {
	if r.way == "both" {
		return s.Exchange(h.Context(), r.call, r.args, strings.NewReader(r.data))
	}
	return s.Receive(h.Context(), r.call, r.args)
}

// wal makes a segment of the cluster's that the server will write in a long time, and
// the request that adds it to the archive.
func (h *roleHosts) wal() (name, content string, put request) {
	*h.made++
	b := []byte(h.segment)
	binary.LittleEndian.PutUint64(b[8:], 1<<32|uint64(*h.made)<<20) // the address in its header
	name, content = fmt.Sprintf("0000000100000001%08X", *h.made), string(b)
	return name, content, putWAL(name, content, nil)
}

// putWAL gives the request that adds a segment, with other arguments than it should have.
func putWAL(name, content string, other obj) request {
	args := obj{"archive_id": "15-1", "name": name, "sha1": fmt.Sprintf("%x", sha1.Sum([]byte(content))), "compress": "none"}
	maps.Copy(args, other)
	return request{"wal-put", "in", args, content}
}

// archived gives a segment that is in the archive, and the name it is stored under.
func (h *roleHosts) archived() (name, file string) {
	h.Helper()
	found, err := filepath.Glob(filepath.Join(h.repo, "archive/demo/15-1/0000000100000000/*.lz4"))
	if err != nil || len(found) == 0 {
		h.Fatalf("in the archive are %v, %v", found, err)
	}
	file = filepath.Base(found[0])
	return file[:24], file
}

const roleLayout = `{"options":{"clean":false}}
{"dir":{"name":"pg_data","mode":448}}
{"dir":{"name":"pg_data/global","mode":448}}
{"end":true}
`

// requests gives every call of a side, in an order in which all can succeed.
func (h *roleHosts) requests(side string) []request {
	h.Helper()
	if side == "server" {
		name, file := h.archived()
		_, _, put := h.wal()
		object, second, dir := "backup/demo/roles", "backup/demo/roles-2", "backup/demo/roles-dir"
		return []request{
			{"archive-id", "", nil, ""},
			{"archive-ids", "", obj{"version": "15", "system_id": h.system}, ""},
			{"wal-find", "", obj{"archive_ids": []string{"15-1"}, "name": name}, ""},
			{"wal-get", "out", obj{"name": name, "archive_id": "15-1", "file": file}, ""},
			put,
			{"describe", "", nil, ""},
			{"open", "out", obj{"name": "backup/demo/backup.info"}, ""},
			{"stat", "", obj{"name": "backup/demo/backup.info"}, ""},
			{"list", "out", obj{"prefix": "backup/demo", "recurse": true}, ""},
			{"put", "in", obj{"name": object, "how": "atomic"}, "content"},
			{"link", "", obj{"old": object, "new": second}, ""},
			{"make-dir", "", obj{"name": dir}, ""},
			{"sync", "", obj{"name": dir}, ""},
			{"remove", "", obj{"names": []string{object, second}}, ""},
			{"remove-all", "", obj{"name": dir}, ""},
		}
	}
	sum := sha1.Sum([]byte("15\n"))
	file := obj{"name": "pg_data/PG_VERSION", "mode": 0o600, "size": 3, "mtime": obj{"s": 1}, "sha1": sum[:]}
	other := sha1.Sum([]byte("16\n"))
	patched := maps.Clone(file)
	patched["sha1"] = other[:]
	m := block.Map{BlockSize: 8192, SumSize: 6, Items: []block.Item{{Size: 3, SuperSize: 3, Sum: block.Sum([]byte("16\n"))}}}
	return []request{
		{"control", "", nil, ""},
		{"running", "", nil, ""},
		{"list-files", "out", obj{"version": 15, "catalog_version": h.catalog, "online": true}, ""},
		{"read-file", "out", obj{"name": "pg_data/PG_VERSION", "limit": -1, "compress": "none"}, ""},
		{"read-files", "both", nil, ""},
		{"connect", "", nil, ""},
		{"facts", "", nil, ""},
		{"databases", "out", nil, ""},
		{"tablespaces", "out", nil, ""},
		{"now", "", nil, ""},
		{"alive", "", nil, ""},
		{"replayed", "", nil, ""},
		{"start-backup", "", obj{"label": "roles", "fast": true}, ""},
		{"stop-backup", "", nil, ""},
		{"checkpoint", "", nil, ""},
		{"create-restore-point", "", obj{"name": "roles"}, ""},
		{"switch-wal", "", nil, ""},
		{"summaries", "", nil, ""},
		{"changed", "out", obj{"timeline": 1, "from": 1, "to": 2}, ""},
		{"disconnect", "", nil, ""},
		{"check", "", nil, ""},
		{"inspect", "in", nil, roleLayout},
		{"begin", "in", nil, roleLayout + "marker\n"},
		{"put-file", "in", file, "15\n"},
		{"put-files", "in", nil, ""},
		{"match-files", "in", obj{"times": false, "before": obj{"s": 0}}, ""},
		{"patch-file", "in", obj{"file": patched, "block_size": int(m.BlockSize), "sum_size": m.SumSize}, string(m.Append(nil))},
		{"patch-next", "in", nil, "16\n"},
		{"write-small", "in", obj{"name": "postgresql.auto.conf"}, "port = 1\n"},
		{"read-small", "out", obj{"name": "postgresql.auto.conf"}, ""},
		{"finish", "", obj{}, ""},
	}
}

// rights reads a table of docs/security.md: what each role may call.
func rights(t *testing.T, heading string) map[string]map[string]bool {
	t.Helper()
	rows := docTable(t, heading)
	name := regexp.MustCompile("`([a-z-]+)`")
	may := map[string]map[string]bool{}
	var roles []string
	for _, cell := range rows[0][1 : len(rows[0])-1] {
		role := name.FindStringSubmatch(cell)[1]
		roles, may[role] = append(roles, role), map[string]bool{}
	}
	for _, row := range rows[1:] {
		calls := name.FindAllStringSubmatch(row[0], -1)
		if left := strings.Trim(name.ReplaceAllString(row[0], ""), ", "); left != "" || len(calls) == 0 || len(row) != len(rows[0]) {
			t.Fatalf("%s: a row begins with %q", heading, row[0])
		}
		for i, role := range roles {
			for _, call := range calls {
				yes, known := map[string]bool{"yes": true, "–": false}[row[i+1]]
				if _, twice := may[role][call[1]]; !known || twice {
					t.Fatalf("%s: of call '%s' and role '%s' it says %q, or more than once", heading, call[1], role, row[i+1])
				}
				may[role][call[1]] = yes
			}
		}
	}
	return may
}

// docTable gives the cells of the first table below a heading of docs/security.md, without the
// line below its head.
func docTable(t *testing.T, heading string) [][]string {
	t.Helper()
	text, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, below, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/security.md has no heading %q", heading)
	}
	below, _, _ = strings.Cut(below, "\n## ")
	var rows [][]string
	for line := range strings.SplitSeq(below, "\n") {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|-") {
			continue
		}
		var row []string
		for cell := range strings.SplitSeq(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|"), "|") {
			row = append(row, strings.TrimSpace(cell))
		}
		rows = append(rows, row)
	}
	if len(rows) < 3 {
		t.Fatalf("below %q is no table", heading)
	}
	return rows
}

// TestRoles goes through docs/security.md: each cell of its tables, on both transports, and
// what it says that cannot be done.
func TestRoles(t *testing.T) {
	h := newRoleHosts(t, nil)
	t.Run("server", func(t *testing.T) {
		h.with(t).cells("server", "On the repository host: `pgx server`", map[string]protocol.Service{
			remote.RoleArchive: remote.ArchiveService(nil, remote.ArchiveOptions{}),
			remote.RoleRestore: remote.StorageService(nil, repo.Seal{}, nil, false), remote.RoleAdmin: remote.StorageService(nil, repo.Seal{}, nil, true),
		})
	})
	t.Run("agent", func(t *testing.T) {
		h.with(t).cells("agent", "On the PostgreSQL host: `pgx agent`", map[string]protocol.Service{
			agent.RoleBackup: agent.BackupService(agent.NewLocal("", pgsql.Params{})), agent.RoleRestoreTarget: agent.TargetService(new(pgdata.Target)),
		})
	})
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			for name, test := range map[string]func(*roleHosts, string){
				"greetings": (*roleHosts).greetings, "commands": (*roleHosts).commands, "archive": (*roleHosts).lies,
				"objects": (*roleHosts).objects, "files": (*roleHosts).files, "restore target": (*roleHosts).targets,
			} {
				t.Run(name, func(t *testing.T) { test(h.with(t), way) })
			}
		})
	}
	t.Run("setup", func(t *testing.T) { h.with(t).setup() })
	t.Run("thief", func(t *testing.T) { h.with(t).thieves() })
}

// cells tries each call in each role, after comparing the table with what the services offer.
func (h *roleHosts) cells(side, heading string, services map[string]protocol.Service) {
	may := rights(h.T, heading)
	if got, want := slices.Sorted(maps.Keys(may)), slices.Sorted(maps.Keys(services)); !slices.Equal(got, want) {
		h.Fatalf("the roles are %q in docs/security.md, %q in fact", got, want)
	}
	for role, service := range services {
		var granted []string
		for call, yes := range may[role] {
			if yes {
				granted = append(granted, call)
			}
		}
		slices.Sort(granted)
		if offered := slices.Sorted(maps.Keys(service.Calls)); !slices.Equal(granted, offered) {
			h.Errorf("role '%s' may call %q in docs/security.md, and %q in fact", role, granted, offered)
		}
	}
	for _, way := range ways {
		for role := range may {
			h.Run(way+"/"+role, func(t *testing.T) { h.with(t).column(way, side, role, may[role]) })
		}
	}
}

// column makes every call of a side in one role.
func (h *roleHosts) column(way, side, role string, may map[string]bool) {
	before := tree(h.T, h.repo)
	stanza := "demo"
	if role == agent.RoleRestoreTarget {
		stanza = "spare"
		h.wipe()
	}
	s := h.session(way, role, role, stanza)
	requests := h.requests(side)
	if len(requests) != len(may) {
		h.Errorf("%d calls are tried, of %d in docs/security.md", len(requests), len(may))
	}
	for _, r := range requests {
		h.Run(r.call, func(t *testing.T) {
			yes, known := may[r.call]
			_, err := h.with(t).do(s, r)
			switch want := fmt.Sprintf("role '%s' may not call '%s'", role, r.call); {
			case !known:
				t.Error("the call is not in docs/security.md")
			case r.call == "changed" && strings.Contains(fmt.Sprint(err), "PostgreSQL 15 has no WAL summaries"): // it was asked
			case r.call == "replayed" && strings.Contains(fmt.Sprint(err), "unable to query replay lsn on the standby"): // and is none
			case yes && err != nil:
				t.Errorf("[%d] %v", errs.CodeOf(err), err)
			case !yes && (errs.CodeOf(err) != errs.Access || !strings.Contains(err.Error(), want)):
				t.Errorf("[%d] %v, want %s", errs.CodeOf(err), err, want)
			}
		})
	}
	if err := s.Err(); err != nil {
		h.Errorf("the session is broken: %v", err)
	}
	if side == "server" { // what admin made it has removed
		same(h.T, tree(h.T, h.repo), before, h.forged)
	}
	h.allArchived()
}

// forged says whether a name in the repository is that of a segment made by wal.
func (h *roleHosts) forged(name string) bool {
	return strings.HasPrefix(name, "archive/demo/15-1/0000000100000001")
}
