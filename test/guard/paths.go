package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/pgx-backup/pgx/agent/wal"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
	"github.com/pgx-backup/pgx/repo/storage/posix"
)

const (
	mib      = 1 << 20
	pageSize = 8192
)

// path is one of the ways that most of what pgx does goes through.
type path struct {
	name string
	runs int // enough that what else the process does is nothing beside them

	// prepare makes what a run needs; dir is free for it. What it starts ends with the context.
	prepare func(ctx context.Context, dir string) (run func() error, err error)
}

var paths = []path{
	{"page-checksum-1M", 200, pageChecksum},
	{"lz4-encode-1M", 3, encode(compress.LZ4)},
	{"lz4-decode-1M", 10, decode(compress.LZ4)},
	{"store-none-2M", 1, store(compress.None)},
	{"store-lz4-2M", 1, store(compress.LZ4)},
	{"store-zst-2M", 1, store(compress.Zstd)},
	{"load-none-2M", 1, load(compress.None)},
	{"load-lz4-2M", 1, load(compress.LZ4)},
	{"load-zst-2M", 1, load(compress.Zstd)},
	{"store-small", 200, storeSmall},
	{"encrypt-1M", 20, encrypt},
	{"decrypt-1M", 20, decrypt},
	{"manifest-load-10000", 1, manifestLoad},
	{"manifest-save-10000", 1, manifestSave},
	{"archive-push-1M", 3, archivePush},
	{"protocol-send-1M", 60, protocolSend},
	{"protocol-receive-1M", 60, protocolReceive},
}

// rows makes n bytes like those of a table: repeated words, numbers, some noise.
func rows(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	states := []string{"new", "paid", "sent"}
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%08d|%016x|order %d of customer %d|{\"price\":%d,\"state\":\"%s\"}\x00\x00\x00\x00",
			i, r.Uint64(), r.IntN(100000), r.IntN(5000), r.IntN(1e6), states[r.IntN(3)])
	}
	return b.Bytes()[:n]
}

// pages makes n bytes of sound pages.
func pages(n int) []byte {
	b := rows(n)
	for i := range n / pageSize {
		page := b[i*pageSize:][:pageSize]
		binary.LittleEndian.PutUint16(page[14:], pageSize/2) // pd_upper
		binary.LittleEndian.PutUint16(page[8:], postgres.PageChecksum(page, uint32(i)))
	}
	return b
}

// whole tells whether a MiB arrived.
func whole(n int64, err error) error {
	if err == nil && n != mib {
		err = fmt.Errorf("%d bytes", n)
	}
	return err
}

func pageChecksum(context.Context, string) (func() error, error) {
	content := pages(mib)
	return func() error {
		for i := range mib / pageSize {
			if !postgres.CheckPage(content[i*pageSize:][:pageSize], uint32(i), true) {
				return fmt.Errorf("page %d is refused", i)
			}
		}
		return nil
	}, nil
}

func encode(typ compress.Type) func(context.Context, string) (func() error, error) {
	return func(context.Context, string) (func() error, error) {
		content := rows(mib)
		return func() error { return encodeTo(io.Discard, typ, content) }, nil
	}
}

func encodeTo(dst io.Writer, typ compress.Type, content []byte) error {
	w, err := compress.NewWriter(typ, typ.DefaultLevel(), dst)
	if err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	return w.Close()
}

func decode(typ compress.Type) func(context.Context, string) (func() error, error) {
	return func(context.Context, string) (func() error, error) {
		var stored bytes.Buffer
		if err := encodeTo(&stored, typ, rows(mib)); err != nil {
			return nil, err
		}
		buffer := make([]byte, mib)
		return func() error {
			r, err := compress.NewReader(typ, bytes.NewReader(stored.Bytes()))
			if err != nil {
				return err
			}
			if _, err := io.ReadFull(r, buffer); err != nil {
				return err
			}
			return r.Close()
		}, nil
	}
}

// storeTo is how a backup takes a file.
func storeTo(dst io.Writer, typ compress.Type, content []byte) error {
	s, err := pipeline.NewStore(bytes.NewReader(content), pipeline.StoreSpec{
		Compress: typ, Level: typ.DefaultLevel(), Limit: -1, Pages: &pipeline.PageSpec{PageSize: pageSize, HeaderCheck: true},
	})
	if err != nil {
		return err
	}
	if _, err := s.WriteTo(dst); err != nil {
		return err
	}
	if r := s.Result(); r.Size != int64(len(content)) || !r.Pages.Valid {
		return fmt.Errorf("stored is %+v", r)
	}
	return s.Close()
}

func store(typ compress.Type) func(context.Context, string) (func() error, error) {
	return func(context.Context, string) (func() error, error) {
		content := pages(2 * mib)
		// What one use of zstd gives back is taken by the next, which makes what is still missing.
		err := storeTo(io.Discard, typ, content)
		return func() error { return storeTo(io.Discard, typ, content) }, err
	}
}

// storeSmall stores a file of one page, of which each database has some hundreds.
func storeSmall(context.Context, string) (func() error, error) {
	content := pages(pageSize)
	return func() error { return storeTo(io.Discard, compress.LZ4, content) }, nil
}

func load(typ compress.Type) func(context.Context, string) (func() error, error) {
	return func(context.Context, string) (func() error, error) {
		var stored bytes.Buffer
		content := pages(2 * mib)
		if err := storeTo(&stored, typ, content); err != nil {
			return nil, err
		}
		sum := sha1.Sum(content)
		return func() error {
			l, err := pipeline.NewLoad(bytes.NewReader(stored.Bytes()), pipeline.LoadSpec{Compress: typ, Size: int64(len(content)), SHA1: &sum})
			if err != nil {
				return err
			}
			if _, err := l.WriteTo(io.Discard); err != nil {
				return err
			}
			return l.Close()
		}, nil
	}
}

var pass = cipher.NewPass("passphrase of a test")

func encrypt(context.Context, string) (func() error, error) {
	content, sealed := rows(mib), make([]byte, 0, mib+cipher.Overhead)
	return func() error {
		e := cipher.NewEncrypter(pass)
		e.End(e.Append(sealed, content))
		return nil
	}, nil
}

func decrypt(context.Context, string) (func() error, error) {
	unit := cipher.Seal(pass, rows(mib))
	return func() error {
		r := cipher.NewReader(bytes.NewReader(unit), pass)
		n, err := r.WriteTo(io.Discard)
		return errors.Join(whole(n, err), r.Close())
	}, nil
}

// files makes a manifest of 10,000 files, half of them in a backup before.
func files() (*manifest.Manifest, error) {
	const full, incr = "20260101-000000F", "20260101-000000F_20260102-000000I"
	m := &manifest.Manifest{
		Program: "pgx", ArchiveStart: "000000010000000000000001", ArchiveStop: "000000010000000000000002",
		LSNStart: "0/1000028", LSNStop: "0/2000100", CopyStart: 101, Start: 100, Stop: 110, Bundle: true,
		Cluster: format.Cluster{ID: 1, SystemID: 7710435159552024453, Version: "15", CatalogVersion: 202209061, ControlVersion: 1300},
		Options: manifest.Options{ArchiveCheck: true, CompressType: "zst", Online: true},
	}
	m.SetLabel(incr, &manifest.Manifest{Label: full, References: []format.Label{full}})
	m.Targets.Add(manifest.Target{Name: "pg_data", Path: "/pg"})
	attributes := manifest.Attributes{Owner: manifest.Owner{User: "postgres", Group: "postgres"}, Mode: 0o700}
	for _, name := range []string{"pg_data", "pg_data/base"} {
		m.Paths.Add(manifest.Path{Name: name, Attributes: attributes})
	}
	for dir := range 10 {
		name := fmt.Sprintf("pg_data/base/%d", 16384+dir)
		attributes.Mode = 0o700
		m.Paths.Add(manifest.Path{Name: name, Attributes: attributes})
		attributes.Mode = 0o600
		for file := range 1000 {
			f := manifest.File{
				Name: fmt.Sprintf("%s/%d", name, 1000000+file*7), Attributes: attributes,
				Size: int64(8192 * (file + 1)), RepoSize: int64(2000*file + 77), Timestamp: 1795225996 + int64(file),
				Bundle: uint32(dir + 1), BundleOffset: int64(file) * 20000, Pages: manifest.PagesValid,
			}
			f.Checksum = sha1.Sum([]byte(f.Name))
			f.RepoChecksum = sha1.Sum(f.Checksum[:])
			if file%2 == 0 {
				f.Reference = full
			}
			if err := m.Files.Add(f); err != nil {
				return nil, err
			}
		}
	}
	return m, m.SetDefaults()
}

func manifestLoad(context.Context, string) (func() error, error) {
	m, err := files()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := m.Write(&text); err != nil {
		return nil, err
	}
	return func() error {
		_, err := manifest.Read(bytes.NewReader(text.Bytes()))
		return err
	}, nil
}

func manifestSave(context.Context, string) (func() error, error) {
	m, err := files()
	return func() error { return m.Write(io.Discard) }, err
}

// samples are of a cluster of PostgreSQL 18 with segments of a MiB.
const samples = "internal/postgres/testdata/"

// archivePush pushes one segment after the other into a repository on this machine.
func archivePush(ctx context.Context, dir string) (func() error, error) {
	content, err := os.ReadFile(samples + "control/18-1.bin")
	if err != nil {
		return nil, err
	}
	control, err := postgres.ParseControl(content)
	if err != nil {
		return nil, err
	}
	header, err := os.ReadFile(samples + "wal/18-1-000000010000000000000008")
	if err != nil {
		return nil, err
	}
	pgdata := filepath.Join(dir, "pg")
	for _, d := range []string{"global", "pg_wal"} {
		if err := os.MkdirAll(filepath.Join(pgdata, d), 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(pgdata, "global/pg_control"), content, 0o600); err != nil {
		return nil, err
	}
	storage, err := posix.New(filepath.Join(dir, "repo"), posix.Create)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = storage.Close() })
	r := repo.New(storage, repo.Config{Key: 1, Stanza: "demo", Program: "pgx", Poll: time.Second})
	if err := r.Init(ctx, control); err != nil {
		return nil, err
	}
	segment := rows(mib)
	copy(segment, header[:postgres.WALHeaderSize])
	n := 8
	return func() error {
		n++
		start := postgres.LSN(n) * mib
		path := filepath.Join(pgdata, "pg_wal", postgres.SegmentName(1, start, mib))
		binary.LittleEndian.PutUint64(segment[8:], uint64(start))
		if err := os.WriteFile(path, segment, 0o600); err != nil {
			return err
		}
		p := wal.Push{
			Archives: []wal.Archive{&archive{Repo: r}}, PGPath: pgdata, HeaderCheck: true, ModeCheck: true,
			Log: slog.New(slog.DiscardHandler), Now: time.Now,
		}
		return wal.PushFile(ctx, p, path)
	}, nil
}

// archive is a repository as package wal asks for one.
type archive struct {
	*repo.Repo
	id format.ArchiveID
}

func (a *archive) Name() string { return "repo1" }

func (a *archive) Cluster(ctx context.Context) (wal.Cluster, error) {
	id, c, err := a.ArchiveID(ctx)
	a.id = id
	return wal.Cluster(c), err
}

func (a *archive) Put(ctx context.Context, f wal.File) (wal.Stored, error) {
	how, err := a.PutWAL(ctx, a.id, repo.WALSource{Name: f.Name, Open: f.Open, SHA1: f.SHA1, Fixed: f.Fixed,
		Compress: compress.LZ4, Level: compress.LZ4.DefaultLevel()})
	if err == nil && how != repo.Stored {
		err = fmt.Errorf("%s was there before", f.Name)
	}
	return wal.New, err
}

func (a *archive) Find(context.Context, wal.Cluster, string) ([]wal.Copy, error) { return nil, nil }

func protocolSend(ctx context.Context, _ string) (func() error, error) {
	content := rows(mib)
	s, err := session(ctx, func(_ context.Context, c *protocol.Call) (any, error) {
		return io.Copy(io.Discard, c.In())
	})
	return func() error {
		var n int64
		err := s.Send(ctx, "call", nil, bytes.NewReader(content), &n)
		return whole(n, err)
	}, err
}

func protocolReceive(ctx context.Context, _ string) (func() error, error) {
	content := rows(mib)
	s, err := session(ctx, func(_ context.Context, c *protocol.Call) (any, error) {
		return c.Out().Write(content)
	})
	return func() error {
		data, err := s.Receive(ctx, "call", nil)
		if err != nil {
			return err
		}
		n, err := data.WriteTo(io.Discard)
		return errors.Join(whole(n, err), data.Close())
	}, err
}

// session connects with a server that has one call.
func session(ctx context.Context, h protocol.Handler) (*protocol.Session, error) {
	config := protocol.Config{Peer: "guard", Program: "pgx", Silence: time.Hour}
	near, far := net.Pipe()
	go func() {
		_ = protocol.Serve(ctx, far, config, func(context.Context, protocol.Hello) (protocol.Service, error) {
			return protocol.Service{Calls: map[string]protocol.Handler{"call": h}}, nil
		})
	}()
	return protocol.Open(ctx, near, protocol.Hello{}, config)
}
