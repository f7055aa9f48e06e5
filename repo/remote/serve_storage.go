package remote

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage"
)

// StorageService offers what is in st of the stanzas that granted knows: for RoleRestore to
// read it, with admin for RoleAdmin. It opens and closes the seal of info files, so that the client
// has them in clear and does not need the passphrase they are encrypted with.
func StorageService(st storage.Storage, seal repo.Seal, granted func(stanza string) bool, admin bool) protocol.Service {
	s := &storageService{storage: st, seal: seal, granted: granted}
	calls := map[string]protocol.Handler{
		"describe": s.describe, "open": s.open, "stat": s.stat, "list": s.list,
	}
	if admin {
		calls["put"] = s.put
		calls["remove"] = s.remove
		calls["remove-all"] = s.removeAll
		calls["make-dir"] = s.makeDir
		calls["link"] = s.link
		calls["sync"] = s.sync
	}
	return protocol.Service{Calls: calls}
}

type storageService struct {
	storage storage.Storage
	seal    repo.Seal
	granted func(stanza string) bool
}

// tops are the directories that hold a directory for each stanza.
var tops = []string{"archive", "backup"}

// check gives a name that came over the wire, if it is within a stanza that is granted.
func (s *storageService) check(n string) (string, error) {
	if err := valid(n); err != nil {
		return "", err
	}
	top, below, found := strings.Cut(n, "/")
	stanza, _, _ := strings.Cut(below, "/")
	switch {
	case !found || !slices.Contains(tops, top):
		return "", errs.New(errs.Access, "access to '%s' is not granted: it belongs to no stanza", n)
	case !s.granted(stanza):
		return "", errs.New(errs.Access, "access to stanza '%s' is not granted", stanza)
	}
	return n, nil
}

func (s *storageService) describe(context.Context, *protocol.Call) (any, error) {
	f := s.storage.Features()
	return description{Path: s.storage.Path(""), Cipher: s.seal.Pass.Given(), Dirs: f.Dirs, Links: f.Links, Versions: f.Versions}, nil
}

func (s *storageService) open(ctx context.Context, c *protocol.Call) (any, error) {
	var args openArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	object, err := s.check(args.Name)
	if err != nil {
		return nil, err
	}
	where := storage.Range{Offset: args.Offset, Length: args.Length, Version: args.Version}
	if s.sealed(object) {
		return nil, s.openInfo(ctx, object, where, c.Out())
	}
	in, err := s.storage.Open(ctx, object, where)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(c.Out(), in)
	return nil, errors.Join(err, in.Close())
}

// sealed says whether a client does not see an object as it is stored.
func (s *storageService) sealed(object string) bool {
	return s.seal.Pass.Given() && format.IsInfoPath(object)
}

// openInfo gives the text of an info file, or a part of it.
func (s *storageService) openInfo(ctx context.Context, object string, where storage.Range, out io.Writer) error {
	if where.Offset < 0 || where.Length < 0 {
		return errs.New(errs.ParamInvalid, "range %d+%d of '%s': %w", where.Offset, where.Length, s.storage.Path(object), fs.ErrInvalid)
	}
	in, err := s.storage.Open(ctx, object, storage.Range{Version: where.Version})
	if err != nil {
		return err
	}
	stored, err := io.ReadAll(in)
	if err := errors.Join(err, in.Close()); err != nil {
		return err
	}
	text, err := s.seal.Open(s.storage.Path(object), stored)
	if err != nil {
		return err
	}
	text = text[min(where.Offset, int64(len(text))):]
	if where.Length > 0 {
		text = text[:min(where.Length, int64(len(text)))]
	}
	_, err = out.Write(text)
	return err
}

func (s *storageService) stat(ctx context.Context, c *protocol.Call) (any, error) {
	object, err := s.decodeName(c)
	if err != nil {
		return nil, err
	}
	o, err := s.storage.Stat(ctx, object)
	if err != nil {
		return nil, err
	}
	o.Name = ""
	return pack(o), nil
}

// decodeName reads the arguments of a call that takes one name.
func (s *storageService) decodeName(c *protocol.Call) (string, error) {
	var args nameArgs
	if err := c.Decode(&args); err != nil {
		return "", err
	}
	return s.check(args.Name)
}

func (s *storageService) list(ctx context.Context, c *protocol.Call) (any, error) {
	var args listArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	what := storage.Listing{Recurse: args.Recurse, NamesOnly: args.NamesOnly, Unfinished: args.Unfinished, At: args.At}
	for _, word := range args.Only {
		t, err := types.value(word)
		if err != nil {
			return nil, err
		}
		what.Only = append(what.Only, t)
	}
	prefix := args.Prefix
	out := json.NewEncoder(c.Out())
	show := func(o storage.Object) error {
		if len(what.Only) > 0 && !slices.Contains(what.Only, o.Type) {
			return nil
		}
		o.Name = strings.TrimPrefix(strings.TrimPrefix(o.Name, prefix), "/")
		return out.Encode(pack(o))
	}
	switch {
	case prefix == "":
		return nil, s.listTops(ctx, what, show)
	case slices.Contains(tops, prefix):
		return nil, s.listStanzas(ctx, prefix, what, show)
	}
	object, err := s.check(args.Prefix)
	if err != nil {
		return nil, err
	}
	return nil, s.listBelow(ctx, object, what, show)
}

// listTops lists the repository as if nothing were in it but the stanzas granted.
func (s *storageService) listTops(ctx context.Context, what storage.Listing, show func(storage.Object) error) error {
	for _, top := range tops {
		o, err := s.storage.Stat(ctx, top)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && !what.Unfinished {
			err = show(o)
		}
		if err == nil && what.Recurse && o.Type == storage.Dir {
			err = s.listStanzas(ctx, top, what, show)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *storageService) listStanzas(ctx context.Context, top string, what storage.Listing, show func(storage.Object) error) error {
	for o, err := range s.storage.List(ctx, top, storage.Listing{NamesOnly: what.NamesOnly, At: what.At}) {
		if err != nil {
			return err
		}
		if !s.granted(path.Base(o.Name)) {
			continue
		}
		if !what.Unfinished {
			if err := show(o); err != nil {
				return err
			}
		}
		if what.Recurse && o.Type == storage.Dir {
			if err := s.listBelow(ctx, o.Name, what, show); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *storageService) listBelow(ctx context.Context, dir string, what storage.Listing, show func(storage.Object) error) error {
	for o, err := range s.storage.List(ctx, dir, what) {
		if err != nil {
			return err
		}
		if err := show(o); err != nil {
			return err
		}
	}
	return nil
}

func (s *storageService) put(ctx context.Context, c *protocol.Call) (any, error) {
	var args putArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	object, err := s.check(args.Name)
	if err != nil {
		return nil, err
	}
	how, err := writes.value(args.How)
	if err != nil {
		return nil, err
	}
	if !s.sealed(object) {
		return nil, s.storage.Put(ctx, object, c.In(), how)
	}
	in, err := pipeline.NewStore(c.In(), pipeline.StoreSpec{Compress: compress.None, Cipher: s.seal.Pass, Limit: -1})
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return nil, s.storage.Put(ctx, object, in, how)
}

func (s *storageService) remove(ctx context.Context, c *protocol.Call) (any, error) {
	var args namesArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	var objects []string
	for _, n := range args.Names {
		object, err := s.check(n)
		if err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
	return nil, s.storage.Remove(ctx, objects...)
}

func (s *storageService) removeAll(ctx context.Context, c *protocol.Call) (any, error) {
	object, err := s.decodeName(c)
	if err != nil {
		return nil, err
	}
	return nil, s.storage.RemoveAll(ctx, object)
}

func (s *storageService) makeDir(ctx context.Context, c *protocol.Call) (any, error) {
	object, err := s.decodeName(c)
	if err != nil {
		return nil, err
	}
	return nil, s.storage.MakeDir(ctx, object)
}

func (s *storageService) sync(ctx context.Context, c *protocol.Call) (any, error) {
	object, err := s.decodeName(c)
	if err != nil {
		return nil, err
	}
	return nil, s.storage.Sync(ctx, object)
}

// link links objects only: a symbolic link under a second name is another link, since its target
// is relative to where it lies.
func (s *storageService) link(ctx context.Context, c *protocol.Call) (any, error) {
	var args linkArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	before, err := s.check(args.Old)
	if err != nil {
		return nil, err
	}
	object, err := s.check(args.New)
	if err != nil {
		return nil, err
	}
	o, err := s.storage.Stat(ctx, before)
	if err != nil {
		return nil, err
	}
	if o.Type != storage.File {
		return nil, errs.New(errs.Access, "'%s' is not a file, it is not given another name", s.storage.Path(before))
	}
	return nil, s.storage.Link(ctx, before, object)
}
