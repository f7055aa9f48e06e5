package remote_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/protocol/protocoltest"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/posix"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial gives sessions with a service, each on a connection of its own.
func dial(t testing.TB, role string, service protocol.Service) *protocol.Pool {
	t.Helper()
	var serving sync.WaitGroup
	config := func(peer string) protocol.Config {
		return protocol.Config{Peer: peer, Program: "pgx-test", Silence: time.Minute}
	}
	pool := protocol.NewPool(32, func(ctx context.Context) (*protocol.Session, error) {
		near, far := protocoltest.Pipe(t)
		serving.Go(func() {
			// What it returns is about clients that left in mid-call.
			_ = protocol.Serve(context.WithoutCancel(ctx), far, config("client"), func(context.Context, protocol.Hello) (protocol.Service, error) {
				return service, nil
			})
		})
		return protocol.Open(ctx, near, protocol.Hello{Role: role, Stanza: "demo"}, config("backup"))
	})
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
		serving.Wait()
	})
	return pool
}

func directory(t testing.TB, path string) *posix.Storage {
	t.Helper()
	st, err := posix.New(path, posix.Refuse)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func granted(stanzas ...string) func(string) bool {
	return func(stanza string) bool {
		for _, s := range stanzas {
			if s == stanza {
				return true
			}
		}
		return false
	}
}

// client gives st as a client in a role with that stanza sees it.
func client(t testing.TB, st storage.Storage, role string, stanzas ...string) *remote.Storage {
	t.Helper()
	far, err := remote.NewStorage(t.Context(), dial(t, role, remote.StorageService(st, repo.Seal{}, granted(stanzas...), role == remote.RoleAdmin)), "")
	if err != nil {
		t.Fatal(err)
	}
	return far
}

// calls are those of the table in the package comment, with arguments that are in order.
var calls = map[string]struct {
	args  any
	roles string
}{
	"archive-id":  {nil, "archive"},
	"archive-ids": {obj{"version": "15", "system_id": "7"}, "archive"},
	"wal-find":    {obj{"archive_ids": []string{"15-1"}, "name": "00000002.history"}, "archive"},
	"wal-get":     {obj{"archive_id": "15-1", "name": "00000002.history", "file": "00000002.history"}, "archive"},
	"wal-put":     {obj{"archive_id": "15-1", "name": "00000002.history", "compress": "none"}, "archive"},
	"describe":    {nil, "restore admin"},
	"open":        {obj{"name": "backup/demo/x"}, "restore admin"},
	"stat":        {obj{"name": "backup/demo/x"}, "restore admin"},
	"list":        {obj{"prefix": "backup/demo"}, "restore admin"},
	"put":         {obj{"name": "backup/demo/x", "how": "atomic"}, "admin"},
	"remove":      {obj{"names": []string{"backup/demo/gone"}}, "admin"},
	"remove-all":  {obj{"name": "backup/demo/gone"}, "admin"},
	"make-dir":    {obj{"name": "backup/demo/dir"}, "admin"},
	"link":        {obj{"old": "backup/demo/x", "new": "backup/demo/y"}, "admin"},
	"sync":        {obj{"name": "backup/demo"}, "admin"},
	"shell":       {nil, ""},
}

type obj = map[string]any

const history2 = "1\t0/3000000\tno recovery target specified\n"

// call makes any call over the wire, as somebody might who has no client of ours.
func call(ctx context.Context, p *protocol.Pool, name string, args any) (string, error) {
	switch name {
	case "put", "wal-put":
		return "", p.Send(ctx, name, args, strings.NewReader(history2), nil)
	case "open", "wal-get", "list":
		in, err := p.Receive(ctx, name, args)
		if err != nil {
			return "", err
		}
		defer in.Close()
		b, err := io.ReadAll(in)
		return string(b), err
	}
	return "", p.Call(ctx, name, args, nil)
}

// services gives the service of each role for a repository with the stanza "demo".
func services(t testing.TB, st storage.Storage) map[string]protocol.Service {
	r := repo.New(st, repo.Config{Key: 1, Stanza: "demo", Program: "pgx-test", Poll: time.Millisecond})
	if err := r.Init(t.Context(), control); err != nil {
		t.Fatal(err)
	}
	return map[string]protocol.Service{
		remote.RoleArchive: remote.ArchiveService(r, remote.ArchiveOptions{}),
		remote.RoleRestore: remote.StorageService(st, repo.Seal{}, granted("demo"), false),
		remote.RoleAdmin:   remote.StorageService(st, repo.Seal{}, granted("demo"), true),
	}
}

func TestRoles(t *testing.T) {
	for _, role := range []string{remote.RoleArchive, remote.RoleRestore, remote.RoleAdmin} {
		st := storagetest.NewMemory(time.Now)
		service := services(t, st)[role]
		for _, name := range []string{"backup/demo/x", "archive/demo/15-1/00000002.history"} {
			if err := st.Put(t.Context(), name, strings.NewReader(history2), storage.Atomic); err != nil {
				t.Fatal(err)
			}
		}
		p := dial(t, role, service)
		for name, c := range calls {
			_, err := call(t.Context(), p, name, c.args)
			may := strings.Contains(c.roles, role)
			if may && err != nil {
				t.Errorf("role '%s' calls '%s': %v", role, name, err)
			}
			if want := "on 'backup': role '" + role + "' may not call '" + name + "'"; !may && (errs.CodeOf(err) != errs.Access || err.Error() != want) {
				t.Errorf("role '%s' calls '%s': %v", role, name, err)
			}
			if _, known := service.Calls[name]; known != may {
				t.Errorf("role '%s' has '%s': %v", role, name, known)
			}
		}
		for name := range service.Calls {
			if _, known := calls[name]; !known {
				t.Errorf("role '%s' has '%s', which is in no table", role, name)
			}
		}
	}
}

// foreign are names that no role may use, whatever there is.
var foreign = map[string]errs.Code{
	"/etc/passwd": errs.ParamInvalid, "..": errs.ParamInvalid, ".": errs.ParamInvalid, "backup/demo/../other/x": errs.ParamInvalid,
	"../x": errs.ParamInvalid, "backup/demo/": errs.ParamInvalid, "backup//demo": errs.ParamInvalid,
	"backup/demo/x\x00": errs.ParamInvalid, "\x00": errs.ParamInvalid, "backup/./demo": errs.ParamInvalid,
	"backup/other/x": errs.Access, "archive/other": errs.Access, "backup/other": errs.Access, "archive/demo2/x": errs.Access,
	"backup/dem": errs.Access, "x": errs.Access, "demo": errs.Access, "demo/x": errs.Access, "backups/demo/x": errs.Access,
	"backup": errs.Access, "archive": errs.Access, "Backup/demo/x": errs.Access, "backup/DEMO/x": errs.Access,
	"backup/\xff": errs.ParamInvalid,
}

func TestForeignNames(t *testing.T) {
	dir := t.TempDir()
	st := directory(t, dir)
	for _, role := range []string{remote.RoleRestore, remote.RoleAdmin} {
		p := dial(t, role, remote.StorageService(st, repo.Seal{}, granted("demo"), role == remote.RoleAdmin))
		for _, name := range []string{"backup/demo/x", "backup/other/x", "x"} {
			if err := st.Put(t.Context(), name, strings.NewReader("mine"), storage.Atomic); err != nil {
				t.Fatal(err)
			}
		}
		before := tree(t, dir)
		for name, code := range foreign {
			for c, args := range map[string][]obj{
				"open": {{"name": name}}, "stat": {{"name": name}}, "list": {{"prefix": name}, {"prefix": name, "recurse": true}},
				"put":    {{"name": name, "how": "atomic"}, {"name": name, "how": "staged"}, {"name": name, "how": "exclusive"}},
				"remove": {{"names": []string{"backup/demo/gone", name}}}, "remove-all": {{"name": name}}, "make-dir": {{"name": name}},
				"link": {{"old": name, "new": "backup/demo/y"}, {"old": "backup/demo/x", "new": name}}, "sync": {{"name": name}},
			} {
				if c == "list" && (name == "backup" || name == "archive") || !strings.Contains(calls[c].roles, role) {
					continue
				}
				for _, a := range args {
					_, err := call(t.Context(), p, c, a)
					// JSON makes another name of what is not UTF-8: one that is not granted.
					if got := errs.CodeOf(err); got != code && !(strings.Contains(name, "\xff") && got == errs.Access) {
						t.Errorf("role '%s' calls '%s' %q: %v %v", role, c, a, got, err)
					}
				}
			}
		}
		if after := tree(t, dir); after != before {
			t.Errorf("role '%s': the repository was\n%s\nand is\n%s", role, before, after)
		}
	}
}

// tree gives every name below dir.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(path, dir))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, "\n")
}

func TestListShowsWhatIsGranted(t *testing.T) {
	st := storagetest.NewMemory(time.Now)
	for _, name := range []string{"archive/demo/archive.info", "archive/other/archive.info", "backup/demo/backup.info", "backup/third/backup.info", "etc/x"} {
		if err := st.Put(t.Context(), name, strings.NewReader("x"), storage.Atomic); err != nil {
			t.Fatal(err)
		}
	}
	far := client(t, st, remote.RoleRestore, "demo", "third")
	for _, test := range []struct {
		prefix string
		what   storage.Listing
		want   string
	}{
		{"", storage.Listing{}, "archive backup"},
		{"archive", storage.Listing{}, "archive/demo"},
		{"backup", storage.Listing{Only: []storage.Type{storage.Dir}, NamesOnly: true}, "backup/demo backup/third"},
		{"backup", storage.Listing{Only: []storage.Type{storage.File}}, ""},
		{"backup/demo", storage.Listing{}, "backup/demo/backup.info"},
		{"archive", storage.Listing{Recurse: true}, "archive/demo archive/demo/archive.info"},
		{"", storage.Listing{Recurse: true, Only: []storage.Type{storage.File}}, "archive/demo/archive.info backup/demo/backup.info backup/third/backup.info"},
	} {
		if got := strings.Join(listed(t, far, test.prefix, test.what), " "); got != test.want {
			t.Errorf("list '%s' %+v: %s, want %s", test.prefix, test.what, got, test.want)
		}
	}
	all, err := repo.Stanzas(t.Context(), far)
	if err != nil || len(all) != 2 || !all["demo"] || !all["third"] {
		t.Errorf("stanzas %v, error %v", all, err)
	}
}

func listed(t testing.TB, st storage.Storage, prefix string, what storage.Listing) []string {
	t.Helper()
	found := map[string]bool{}
	for o, err := range st.List(t.Context(), prefix, what) {
		if err != nil {
			t.Fatal(err)
		}
		found[o.Name] = true
	}
	return sorted(found)
}

// TestLinks: links of the repository itself work, one that leads out does not, and no client
// makes any.
func TestLinks(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	st := directory(t, dir)
	if err := st.Put(t.Context(), "backup/demo/set/file", strings.NewReader("content"), storage.Atomic); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"latest": "set", "out": outside, "secret": filepath.Join(outside, "secret")} {
		if err := os.Symlink(target, filepath.Join(dir, "backup/demo", name)); err != nil {
			t.Fatal(err)
		}
	}
	far := client(t, st, remote.RoleAdmin, "demo")
	ctx := t.Context()
	if got := content(t, far, "backup/demo/latest/file"); got != "content" {
		t.Errorf("through the link: %q", got)
	}
	if o, err := far.Stat(ctx, "backup/demo/latest"); err != nil || o.Type != storage.Link || o.Target != "set" {
		t.Errorf("stat of a link: %+v, %v", o, err)
	}
	before := tree(t, outside)
	_, open := far.Open(ctx, "backup/demo/out/secret", storage.Range{})
	_, openLink := far.Open(ctx, "backup/demo/secret", storage.Range{})
	_, stat := far.Stat(ctx, "backup/demo/out/secret")
	var list error
	for _, list = range far.List(ctx, "backup/demo/out", storage.Listing{}) {
		if list == nil {
			t.Error("listed outside")
		}
	}
	for call, err := range map[string]error{
		"open": open, "open the link": openLink, "stat": stat, "list": list,
		"put": far.Put(ctx, "backup/demo/out/x", strings.NewReader(""), storage.Atomic), "staged": far.Put(ctx, "backup/demo/out/x", strings.NewReader(""), storage.Staged),
		"remove": far.Remove(ctx, "backup/demo/out/secret"), "remove all": far.RemoveAll(ctx, "backup/demo/out/secret"),
		"make dir": far.MakeDir(ctx, "backup/demo/out/x"), "link": far.Link(ctx, "backup/demo/out/secret", "backup/demo/x"),
		"link to": far.Link(ctx, "backup/demo/set/file", "backup/demo/out/x"),
	} {
		if errs.CodeOf(err) != errs.Access || !strings.Contains(err.Error(), "leads out of the repository through a link") {
			t.Errorf("%s: %v", call, err)
		}
	}
	if err := far.Link(ctx, "backup/demo/latest", "backup/demo/deep/er/latest"); errs.CodeOf(err) != errs.Access {
		t.Errorf("a link was moved: %v", err)
	}
	if err := far.Symlink(ctx, "set", "backup/demo/new"); !errors.Is(err, errors.ErrUnsupported) || far.Features().Symlinks {
		t.Errorf("a link was made: %v", err)
	}
	if after := tree(t, outside); after != before {
		t.Errorf("outside there is now %s", after)
	}
}

func content(t testing.TB, st storage.Storage, name string) string {
	t.Helper()
	in, err := st.Open(t.Context(), name, storage.Range{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(in)
	if err := errors.Join(err, in.Close()); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestNames: what a file system takes for a name goes there and back.
func TestNames(t *testing.T) {
	far := client(t, directory(t, t.TempDir()), remote.RoleAdmin, "demo")
	for _, name := range []string{"ünï", `"quoted"`, "<&>", "new\nline", " ", strings.Repeat("\x01", 255)} {
		name := "backup/demo/" + name
		if err := far.Put(t.Context(), name, strings.NewReader(name), storage.Atomic); err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if got := content(t, far, name); got != name {
			t.Errorf("%q holds %q", name, got)
		}
		if got := listed(t, far, "backup/demo", storage.Listing{}); len(got) != 1 || got[0] != name {
			t.Errorf("%q is listed as %q", name, got)
		}
		if err := far.Remove(t.Context(), name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	// JSON would make another name of it.
	if err := far.Put(t.Context(), "backup/demo/caf\xe9", strings.NewReader(""), storage.Atomic); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("not UTF-8: %v", err)
	}
	far, err := remote.NewStorage(t.Context(), dial(t, remote.RoleRestore, remote.StorageService(storagetest.NewMemory(time.Now), repo.Seal{}, granted(), false)), "backup.example")
	if got := far.Path("backup/demo/backup.info"); err != nil || got != "backup.example:memory:/backup/demo/backup.info" {
		t.Errorf("path '%s', %v", got, err)
	}
}

// TestBrokenPut: an object whose sender breaks off in the middle does not appear.
func TestBrokenPut(t *testing.T) {
	dir := t.TempDir()
	service := remote.StorageService(directory(t, dir), repo.Seal{}, granted("demo"), true)
	for how := range map[storage.Write]bool{storage.Atomic: true, storage.Staged: true, storage.Exclusive: true} {
		cut(t, service, remote.RoleAdmin, func(p protocol.Caller) error {
			far, err := remote.NewStorage(t.Context(), p, "")
			if err != nil {
				return err
			}
			return far.Put(t.Context(), "backup/demo/x", strings.NewReader(strings.Repeat("x", 300_000)), how)
		}, func(int) {
			if got := tree(t, dir); strings.Contains(got, "x") {
				t.Fatalf("there is %q", got)
			}
		})
		if err := os.RemoveAll(filepath.Join(dir, "backup")); err != nil {
			t.Fatal(err)
		}
	}
}

// cut runs op over a connection that breaks after ever more bytes from the client, until
// op succeeds; after each failure check is called when the server has ended too.
func cut(t *testing.T, service protocol.Service, role string, op func(protocol.Caller) error, check func(after int)) {
	t.Helper()
	for after := 50; ; after += 50 + after/3 {
		near, far := protocoltest.Pipe(t)
		ended := make(chan struct{})
		c := protocol.Config{Peer: "peer", Program: "pgx-test", Silence: time.Minute}
		go func() {
			defer close(ended)
			_ = protocol.Serve(t.Context(), far, c, func(context.Context, protocol.Hello) (protocol.Service, error) { return service, nil })
		}()
		s, err := protocol.Open(t.Context(), &cutAfter{Transport: near, left: after}, protocol.Hello{Role: role}, c)
		if err == nil {
			err = op(s)
			_ = s.Close()
		}
		<-ended
		if err == nil {
			return
		}
		if code := errs.CodeOf(err); code != errs.HostConnect {
			t.Fatalf("cut after %d bytes: %v %v", after, code, err)
		}
		check(after)
	}
}

// cutAfter is a connection that breaks when some bytes have gone out.
type cutAfter struct {
	protocol.Transport
	left int
}

func (c *cutAfter) Write(p []byte) (int, error) {
	n, err := c.Transport.Write(p[:min(len(p), c.left)])
	if c.left -= n; err == nil && n < len(p) {
		err = errors.Join(errors.New("the cable was pulled"), c.Close())
	}
	return n, err
}
