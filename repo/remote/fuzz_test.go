package remote_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
)

// FuzzCalls: whatever a client asks for and sends, no service panics, no role changes what
// is not in its stanza, and RoleArchive and RoleRestore change nothing that is there.
func FuzzCalls(f *testing.F) {
	dir := f.TempDir()
	root := filepath.Join(dir, "repo")
	st, err := posix.New(root, posix.Create)
	if err != nil {
		f.Fatal(err)
	}
	defer st.Close()
	r := repo.New(st, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test"})
	if err := r.Init(f.Context(), control); err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"archive/other/15-1/00000002.history", "backup/other/backup.info", "backup/demo/x", "archive/demo/15-1/00000003.history", "x"} {
		if err := st.Put(f.Context(), name, strings.NewReader(history2), storage.Atomic); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "outside"), []byte("outside"), 0o600); err != nil {
		f.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(root, "backup/demo/out")); err != nil {
		f.Fatal(err)
	}
	roles := []string{remote.RoleArchive, remote.RoleRestore, remote.RoleAdmin}
	services := []protocol.Service{
		remote.ArchiveService(r, remote.ArchiveOptions{}),
		remote.StorageService(st, repo.Seal{}, granted("demo"), false),
		remote.StorageService(st, repo.Seal{}, granted("demo"), true),
	}
	for name, c := range calls {
		args, err := json.Marshal(c.args)
		if err != nil {
			f.Fatal(err)
		}
		for role := range roles {
			for way := range 3 {
				f.Add(role, way, name, args, []byte(history2))
			}
		}
	}
	for _, codec := range codecs {
		args := []byte(`{"archive_id":"15-1","name":"` + segment + `","sha1":"da39a3ee5e6b4b0d3255bfef95601890afd80709","compress":"` + string(codec) + `"}`)
		f.Add(0, 1, "wal-put", args, pack(f, good.make(100), codec))
		args = []byte(`{"archive_id":"15-1","name":"` + segment + `","xxh3":"99aa06d3014798d86001c324468d497f","compress":"` + string(codec) + `"}`)
		f.Add(0, 1, "wal-put", args, pack(f, good.make(100), codec))
	}
	kept := map[int]func(string) bool{
		0: func(string) bool { return true },
		1: func(string) bool { return true },
		2: func(path string) bool {
			return !strings.HasPrefix(path, "repo/backup/demo") && !strings.HasPrefix(path, "repo/archive/demo")
		},
	}
	f.Fuzz(func(t *testing.T, role, way int, name string, args, data []byte) {
		if !json.Valid(args) {
			t.Skip("no client can send this")
		}
		role, way = int(uint(role)%3), int(uint(way)%3)
		p, raw := dial(t, roles[role], services[role]), json.RawMessage(args)
		before := files(t, dir, kept[role])
		var err error
		switch way {
		case 0:
			err = p.Call(t.Context(), name, raw, nil)
		case 1:
			err = p.Send(t.Context(), name, raw, bytes.NewReader(data), nil)
		case 2:
			var in *protocol.Stream
			if in, err = p.Receive(t.Context(), name, raw); err == nil {
				_, err = io.Copy(io.Discard, in)
				in.Close()
			}
		}
		if err != nil && strings.Contains(err.Error(), "internal error") {
			t.Errorf("role '%s' calls '%s' %s: %v", roles[role], name, args, err)
		}
		after := files(t, dir, kept[role])
		for path, was := range before {
			if now, found := after[path]; !found || now != was {
				t.Errorf("role '%s' calls '%s' %s: '%s' was %q, is %q", roles[role], name, args, path, was, now)
			}
		}
		for path := range after {
			if _, found := before[path]; !found && !strings.HasPrefix(path, "repo/archive/demo/15-1") {
				t.Errorf("role '%s' calls '%s' %s: '%s' is new", roles[role], name, args, path)
			}
		}
	})
}

// files gives the content of the files below dir that are asked for.
func files(t *testing.T, dir string, which func(path string) bool) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		if !d.Type().IsRegular() || !which(name) {
			return nil
		}
		b, err := os.ReadFile(path)
		all[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
