package remote_test

import (
	"context"
	"io"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/pgx-backup/pgx/repo/remote"
	"github.com/pgx-backup/pgx/repo/storage"
	"github.com/pgx-backup/pgx/repo/storage/storagetest"
)

func TestContract(t *testing.T) {
	for name, near := range map[string]func(t *testing.T) storage.Storage{
		"posix":  func(t *testing.T) storage.Storage { return directory(t, t.TempDir()) },
		"memory": func(*testing.T) storage.Storage { return storagetest.NewMemory(time.Now) },
	} {
		t.Run(name, func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) storage.Storage {
				return inStanza{client(t, near(t), remote.RoleAdmin, "demo")}
			})
		})
	}
}

// inStanza has the names of the contract suite below the directory of a stanza.
type inStanza struct{ storage.Storage }

const stanzaDir = "backup/demo"

func (s inStanza) down(name string) string { return stanzaDir + "/" + name }

func (s inStanza) dir(name string) string { return strings.TrimSuffix(s.down(name), "/") }

func (s inStanza) Put(ctx context.Context, name string, src io.Reader, how storage.Write) error {
	return s.Storage.Put(ctx, s.down(name), src, how)
}

func (s inStanza) Open(ctx context.Context, name string, at storage.Range) (io.ReadCloser, error) {
	return s.Storage.Open(ctx, s.down(name), at)
}

func (s inStanza) Stat(ctx context.Context, name string) (storage.Object, error) {
	o, err := s.Storage.Stat(ctx, s.down(name))
	o.Name = strings.TrimPrefix(o.Name, stanzaDir+"/")
	return o, err
}

func (s inStanza) List(ctx context.Context, prefix string, what storage.Listing) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		dir := s.down(prefix)
		if prefix == "" {
			dir = stanzaDir
		}
		for o, err := range s.Storage.List(ctx, dir, what) {
			o.Name = strings.TrimPrefix(o.Name, stanzaDir+"/")
			if !yield(o, err) {
				return
			}
		}
	}
}

func (s inStanza) Remove(ctx context.Context, names ...string) error {
	var down []string
	for _, n := range names {
		down = append(down, s.down(n))
	}
	return s.Storage.Remove(ctx, down...)
}

func (s inStanza) RemoveAll(ctx context.Context, name string) error {
	return s.Storage.RemoveAll(ctx, s.down(name))
}

func (s inStanza) MakeDir(ctx context.Context, name string) error {
	return s.Storage.MakeDir(ctx, s.down(name))
}

func (s inStanza) Symlink(ctx context.Context, target, name string) error {
	return s.Storage.Symlink(ctx, target, s.down(name))
}

func (s inStanza) Link(ctx context.Context, old, name string) error {
	return s.Storage.Link(ctx, s.down(old), s.down(name))
}

func (s inStanza) Sync(ctx context.Context, name string) error {
	if name == "" {
		return s.Storage.Sync(ctx, stanzaDir)
	}
	return s.Storage.Sync(ctx, s.down(name))
}

func (s inStanza) Path(name string) string { return s.Storage.Path(s.dir(name)) }
