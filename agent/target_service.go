package agent

import (
	"bufio"
	"context"
	"crypto/sha1"
	"errors"
	"hash"
	"io"
	"slices"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/block"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol"
)

// RoleRestoreTarget is the role of who restores to this host. It is as powerful as the user
// the agent runs as, and RoleBackup never implies it: a server runs what is written into
// postgresql.auto.conf.
//
// So its bounds are against accidents: the data directory is the agent's own, whatever the
// client says, and no server may run in it; tablespaces and links lead where the
// client says, as a backup does, but pgdata.Target takes no directory that has files
// or belongs to somebody else, unless the data directory is a cluster's and the client asks to
// clean.
const RoleRestoreTarget = "restore-target"

// maxSmall bounds what is handled as a small file.
const maxSmall = 64 << 20

// TargetService offers t to a client in RoleRestoreTarget. It is for one session of the
// protocol and one restore, and closes t at the end.
func TargetService(t Target) protocol.Service {
	s := &targetService{target: t}
	return protocol.Service{
		Calls: map[string]protocol.Handler{
			callCheck:      s.check,
			callInspect:    s.inspect,
			callBegin:      s.begin,
			callMatchFiles: s.during(s.matchFiles),
			callPatchFile:  s.during(s.patchFile),
			callPatchNext:  s.patchNext,
			callPutFile:    s.during(s.putFile),
			callPutFiles:   s.during(s.putFiles),
			callReadSmall:  s.during(s.readSmall),
			callWriteSmall: s.during(s.writeSmall),
			callFinish:     s.during(s.finish),
		},
		Close: func() error { return errors.Join(s.endPatch(), t.Close()) },
	}
}

type targetService struct {
	target Target
	stage  stage
	patch  pgdata.Patch // under way, or nil
}

// stage says how far a restore is. A Target relies on the order of its methods; a client
// that does not keep it gets an error.
type stage int

const (
	fresh stage = iota
	begun
	ended // or failed to begin
)

// during makes a handler of what may be done between begin and finish.
func (s *targetService) during(do protocol.Handler) protocol.Handler {
	return func(ctx context.Context, c *protocol.Call) (any, error) {
		if s.stage != begun {
			return nil, errs.New(errs.Protocol, "no restore is under way in this session: '%s' comes first, '%s' last", callBegin, callFinish)
		}
		if err := s.endPatch(); err != nil {
			return nil, err
		}
		return do(ctx, c)
	}
}

func (s *targetService) check(ctx context.Context, _ *protocol.Call) (any, error) {
	if err := s.unbegun(); err != nil {
		return nil, err
	}
	recognised, err := s.target.Check(ctx)
	return checkResult{recognised}, err
}

func (s *targetService) unbegun() error {
	if s.stage != fresh {
		return errs.New(errs.Protocol, "this session has begun a restore already")
	}
	return nil
}

// layout reads a layout, and refuses it when a restore may not begin: that the client has
// looked is not relied on.
func (s *targetService) layout(ctx context.Context, in *bufio.Reader) (pgdata.Layout, error) {
	if err := s.unbegun(); err != nil {
		return pgdata.Layout{}, err
	}
	l, err := readLayout(in)
	if err != nil {
		return l, err
	}
	recognised, err := s.target.Check(ctx)
	if err == nil && l.Clean && !recognised {
		err = errs.WithHint(errs.New(errs.PathNotEmpty, "refusing to clean what is not a data directory of PostgreSQL"),
			"it has neither PG_VERSION nor backup.manifest: restore without --delta and --force.")
	}
	return l, err
}

func (s *targetService) inspect(ctx context.Context, c *protocol.Call) (any, error) {
	l, err := s.layout(ctx, bufio.NewReaderSize(c.In(), maxLine))
	if err != nil {
		return nil, err
	}
	return nil, s.target.Inspect(ctx, l)
}

func (s *targetService) begin(ctx context.Context, c *protocol.Call) (any, error) {
	in := bufio.NewReaderSize(c.In(), maxLine)
	l, err := s.layout(ctx, in)
	if err != nil {
		return nil, err
	}
	s.stage = ended
	err = s.target.Begin(ctx, l, func(w io.Writer) error {
		_, err := in.WriteTo(w)
		return err
	})
	if err == nil {
		s.stage = begun
	}
	return nil, err
}

// maxMatched bounds how many files are compared in one call.
const maxMatched = 10_000

func (s *targetService) matchFiles(ctx context.Context, c *protocol.Call) (any, error) {
	var args matchFilesArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	var files []pgdata.TargetFile
	for w, err := range values[wireFile](c.In()) {
		if err == nil && len(files) == maxMatched {
			err = errs.New(errs.ParamInvalid, "more than %d files are to be compared at once", maxMatched)
		}
		if err != nil {
			return nil, err
		}
		f, err := w.file()
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	matches, err := s.target.Match(ctx, files, pgdata.Compare{Times: args.Times, Before: args.Before.time()})
	return matchFilesResult{matches}, err
}

// maxMap bounds the text of a block map. One of a file of a terabyte in the smallest blocks has less than twice as much.
const maxMap = 1 << 30

func (s *targetService) patchFile(ctx context.Context, c *protocol.Call) (any, error) {
	var args patchFileArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	f, err := args.File.file()
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(c.In(), maxMap+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxMap {
		return nil, errs.New(errs.ParamInvalid, "block map of '%s' is larger than 1GB", f.Name)
	}
	m, err := block.Parse(text, f.Size, args.BlockSize, args.SumSize)
	if err != nil {
		return nil, err
	}
	if s.patch, err = s.target.Patch(ctx, f, m); err != nil || s.patch == nil {
		s.patch = nil
		return patchResult{}, err
	}
	return s.patched()
}

// patchNext takes the content of the blocks that the call before has asked for.
func (s *targetService) patchNext(ctx context.Context, c *protocol.Call) (any, error) {
	if s.patch == nil {
		return nil, errs.New(errs.Protocol, "no patch is under way in this session: '%s' comes first", callPatchFile)
	}
	if err := s.patch.Write(ctx, c.In()); err != nil {
		return nil, errors.Join(err, s.endPatch())
	}
	return s.patched()
}

// patched tells what is needed next.
func (s *targetService) patched() (any, error) {
	r := patchResult{Found: true, Needed: slices.Clone(s.patch.Needed())}
	if len(r.Needed) > 0 {
		return r, nil
	}
	return r, s.endPatch()
}

func (s *targetService) endPatch() error {
	if s.patch == nil {
		return nil
	}
	p := s.patch
	s.patch = nil
	return p.Close()
}

func (s *targetService) putFile(ctx context.Context, c *protocol.Call) (any, error) {
	var args wireFile
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	f, err := args.file()
	if err != nil {
		return nil, err
	}
	if f.Zero || f.Size == 0 {
		return nil, s.target.Put(ctx, f, nil)
	}
	return nil, s.target.Put(ctx, f, &verified{src: c.In(), file: f, sum: sha1.New()})
}

func (s *targetService) putFiles(ctx context.Context, c *protocol.Call) (any, error) {
	in := bufio.NewReaderSize(c.In(), maxLine)
	for {
		var w wireFile
		err := readValue(in, &w)
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		f, err := w.file()
		if err != nil {
			return nil, err
		}
		if f.Zero || f.Size == 0 {
			err = s.target.Put(ctx, f, nil)
		} else {
			err = s.target.Put(ctx, f, &verified{src: io.LimitReader(in, f.Size), file: f, sum: sha1.New()})
		}
		if err != nil {
			return nil, err
		}
	}
}

// verified gives the content of a file, and in place of its end an error when it is not what
// it should be, whatever the client knows of it.
type verified struct {
	src  io.Reader
	file pgdata.TargetFile
	sum  hash.Hash
	size int64
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.src.Read(p)
	v.sum.Write(p[:n])
	v.size += int64(n)
	if err != io.EOF {
		return n, err
	}
	if v.size != v.file.Size {
		return n, errs.New(errs.Checksum, "error restoring '%s': actual size %d does not match expected size %d",
			v.file.Name, v.size, v.file.Size)
	}
	if sum := [20]byte(v.sum.Sum(nil)); sum != v.file.SHA1 {
		return n, errs.New(errs.Checksum, "error restoring '%s': actual checksum '%x' does not match expected checksum '%x'",
			v.file.Name, sum, v.file.SHA1)
	}
	return n, io.EOF
}

func (s *targetService) readSmall(ctx context.Context, c *protocol.Call) (any, error) {
	name, err := smallName(c)
	if err != nil {
		return nil, err
	}
	content, err := s.target.Read(ctx, name)
	if err != nil {
		return nil, err
	}
	_, err = c.Out().Write(content)
	return nil, err
}

func (s *targetService) writeSmall(ctx context.Context, c *protocol.Call) (any, error) {
	name, err := smallName(c)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(c.In(), maxSmall+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxSmall {
		return nil, errs.New(errs.ParamInvalid, "'%s' is larger than 64MB", name)
	}
	return nil, s.target.Write(ctx, name, content)
}

func smallName(c *protocol.Call) (string, error) {
	var args smallArgs
	if err := c.Decode(&args); err != nil {
		return "", err
	}
	err := unpack(args.Bytes, &args.Name)
	return args.Name, err
}

func (s *targetService) finish(ctx context.Context, c *protocol.Call) (any, error) {
	var args finishArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	s.stage = ended
	return nil, s.target.Finish(ctx, args.Online)
}
