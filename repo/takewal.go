package repo

import (
	"bytes"
	"context"
	"io"

	"github.com/zeebo/xxh3"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
)

// A WALStream is a WAL file as it arrives from somebody who is not trusted: segments and
// partial ones compressed already, all else as it is, and everything encrypted with
// ArchivePass if that is given.
type WALStream struct {
	Name     string
	Compress compress.Type

	// What the content of a segment is said to have, nil for what is not told: the XXH3 with 128 bits,
	// big endian, and the SHA-1.
	Sum  *[16]byte
	SHA1 *[20]byte

	// In gives what is to be stored, to io.EOF if all of it has come.
	In io.Reader

	// SkipHeader leaves the header of a segment unchecked, for a PostgreSQL whose WAL pgx does not
	// know. Its size is then only checked to be one that segments can have.
	SkipHeader bool
}

// TakeWAL is PutWAL for a file that somebody else has prepared. Nothing they say is believed:
// id must be that of the current cluster, and before a segment gets its name it has been
// decrypted, decoded and found to have the checksums, the size and a header that fit the name and the
// stanza. Without SHA1 it is named by what it has, so that only one side has to compute that; if the
// archive has the file, or cannot name it late, the outcome is then Unnamed.
//
// What is in the archive is left as it is with one exception: a copy that is not what the SHA-1 in its
// own name says is replaced by one that is (Repaired). Nothing that was any good can be lost by that,
// and without it a segment that was damaged in the repository while it is still on the primary could
// never be archived again.
//
// If the archive has the file, In is not read.
func (r *Repo) TakeWAL(ctx context.Context, id format.ArchiveID, s WALStream) (Outcome, error) {
	wal, err := postgres.ParseWALName(s.Name)
	if err != nil {
		return 0, err
	}
	if _, err := compress.ParseType(string(s.Compress)); err != nil {
		return 0, err
	}
	current, cluster, err := r.ArchiveID(ctx)
	if err != nil {
		return 0, err
	}
	if id != current {
		return 0, errs.WithHint(errs.New(errs.ArchiveMismatch, "WAL file '%s' is for '%s' of stanza '%s', which archives to '%s' now",
			s.Name, id, r.stanza, current), "was the stanza upgraded a moment ago? PostgreSQL will try again")
	}
	pass, err := r.ArchivePass(ctx)
	if err != nil {
		return 0, err
	}
	if wal.Kind != postgres.Segment && wal.Kind != postgres.Partial {
		return r.takeText(ctx, id, wal, s, pass)
	}
	if s.Sum == nil && s.SHA1 == nil {
		return 0, errs.New(errs.Checksum, "WAL file '%s' comes without a checksum", s.Name)
	}
	return r.putSegment(ctx, claim{id, s.Name, s.SHA1, s.Compress}, func() (content, error) {
		in := &incoming{WALStream: s, wal: wal, cluster: cluster, most: postgres.MaxSegmentSize}
		var err error
		in.load, err = pipeline.NewLoad((*tee)(in), pipeline.LoadSpec{Cipher: pass, Compress: s.Compress, Size: -1, SHA1: s.SHA1})
		return in, err
	})
}

// takeText takes a history or backup history file, if it is one.
func (r *Repo) takeText(ctx context.Context, id format.ArchiveID, wal postgres.WALName, s WALStream, pass cipher.Pass) (Outcome, error) {
	if s.Compress != compress.None {
		return 0, errs.New(errs.Format, "'%s' comes compressed, history files never are", s.Name)
	}
	in := s.In
	if pass.Given() {
		plain := cipher.NewReader(in, pass)
		defer plain.Close()
		in = plain
	}
	content, err := readPlain(in, s.Name)
	if err != nil {
		return 0, err
	}
	if wal.Kind == postgres.History {
		h, err := postgres.ParseHistory(content)
		if err != nil {
			return 0, errs.Wrap(err, "history file '%s'", s.Name)
		}
		if len(h) == 0 || h[len(h)-1].Timeline >= wal.Timeline {
			return 0, errs.New(errs.Format, "history file '%s' does not say which earlier timeline it left", s.Name)
		}
	} else if !bytes.HasPrefix(content, []byte("START WAL LOCATION: ")) || bytes.IndexByte(content, 0) >= 0 {
		return 0, errs.New(errs.Format, "'%s' is not what PostgreSQL writes about a backup", s.Name)
	}
	return r.putText(ctx, id, s.Name, content)
}

const (
	// stepSize is how much of an incoming segment is decoded at once, in bytes.
	stepSize = 256 << 10

	// maxAhead is how much may come, in bytes, without giving any content. The largest block of
	// all codecs has 4 MiB.
	maxAhead = 16 << 20
)

// incoming is a segment that is checked while it is passed on. Load pulls it through tee,
// which keeps what it gave until it is read from here.
type incoming struct {
	WALStream
	wal     postgres.WALName
	cluster Cluster
	most    int64 // how long the content may be

	load    *pipeline.Load
	came    int64  // bytes, as stored
	raw     []byte // of these, what was not passed on yet
	kept    []byte // where raw begins
	scratch [stepSize]byte
	head    []byte // the first bytes of the content
	size    int64  // of the content so far
	sum     xxh3.Hasher
	err     error // after raw
}

// tee is an incoming as its decoder sees it.
type tee incoming

func (t *tee) Read(p []byte) (int, error) {
	// The stored form is at most a little longer than the content.
	if len(t.raw) > maxAhead || t.came > t.most+t.most/16+stepSize {
		return 0, errs.New(errs.Format, "WAL file '%s' comes in more bytes than its content needs", t.Name)
	}
	n, err := t.In.Read(p)
	t.raw = append(t.raw, p[:n]...)
	t.came += int64(n)
	return n, err
}

func (in *incoming) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(in.raw) == 0 {
		if in.err != nil {
			return 0, in.err
		}
		in.raw = in.kept[:0]
		in.err = in.step()
		in.kept = in.raw
	}
	if in.err != nil && in.err != io.EOF {
		return 0, in.err // what is left is of no use
	}
	n := copy(p, in.raw)
	in.raw = in.raw[n:]
	return n, nil
}

// step decodes a bit. io.EOF is the end of a segment that is all it is said to be.
func (in *incoming) step() error {
	// One byte more than there can be is enough to know that it is too much.
	n, err := in.load.Read(in.scratch[:min(stepSize, in.most+1-in.size)])
	in.size += int64(n)
	_, _ = in.sum.Write(in.scratch[:n]) // never fails
	if missing := postgres.WALHeaderSize - len(in.head); missing > 0 {
		in.head = append(in.head, in.scratch[:min(n, missing)]...)
		if len(in.head) == postgres.WALHeaderSize {
			if herr := in.checkHeader(); herr != nil {
				return herr
			}
		}
	}
	if in.size > in.most {
		return errs.New(errs.FileInvalid, "WAL file '%s' is longer than a segment, which has %d bytes", in.Name, in.most)
	}
	if err != io.EOF {
		if code := errs.CodeOf(err); code == errs.Checksum || code == errs.Format || code == errs.Crypto {
			err = errs.Wrap(err, "WAL file '%s'", in.Name)
		}
		return err
	}
	if in.SkipHeader && !postgres.IsSegmentSize(in.size) || !in.SkipHeader && in.size != in.most {
		return errs.New(errs.FileInvalid, "WAL file '%s' has %d bytes, which is not a segment", in.Name, in.size)
	}
	if sum := in.sum.Sum128().Bytes(); in.Sum != nil && sum != *in.Sum {
		return errs.New(errs.Checksum, "WAL file '%s': actual checksum '%x' does not match expected checksum '%x'", in.Name, sum, *in.Sum)
	}
	// Some codecs know where they end without looking further.
	if n, err = io.ReadFull(in.In, in.scratch[:1]); n > 0 {
		return errs.New(errs.Format, "WAL file '%s' goes on behind the end of its compressed content", in.Name)
	}
	return err
}

func (in *incoming) checkHeader() error {
	if in.SkipHeader {
		return nil
	}
	h, err := postgres.ParseWALHeader(in.head)
	if err != nil {
		return errs.Wrap(err, "WAL file '%s'", in.Name)
	}
	in.most = h.SegmentSize
	if h.Version != in.cluster.Version || h.SystemID != in.cluster.SystemID {
		return errs.New(errs.ArchiveMismatch,
			"WAL file '%s' version %s, system-id %d do not match stanza version %s, system-id %d",
			in.Name, h.Version, h.SystemID, in.cluster.Version, in.cluster.SystemID)
	}
	return errs.Wrap(h.CheckName(in.wal), "WAL file '%s'", in.Name)
}

// Verify has nothing to add: io.EOF has vouched for it.
func (in *incoming) Verify() ([20]byte, error) { return in.load.Result().SHA1, nil }

func (in *incoming) Close() error { return in.load.Close() }
