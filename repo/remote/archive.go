package remote

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"sync"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/repo"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/storage"
)

// ArchiveOptions say how an archive service does its work.
type ArchiveOptions struct {
	// SkipHeaderCheck lets WAL in whatever its header says (archive-header-check=n).
	SkipHeaderCheck bool

	// Stopped, if set, is asked before WAL is taken. Its error is the answer.
	Stopped func() error
}

// ArchiveService offers the archive of r to RoleArchive: to find WAL, to get it, and to add what
// is verified, see repo.Repo.TakeWAL.
func ArchiveService(r *repo.Repo, o ArchiveOptions) protocol.Service {
	s := &archiveService{r, o}
	return protocol.Service{Calls: map[string]protocol.Handler{
		"archive-id": s.id, "archive-ids": s.ids, "wal-find": s.find, "wal-get": s.get, "wal-put": s.put,
	}}
}

type archiveService struct {
	repo *repo.Repo
	ArchiveOptions
}

// Arguments and results of the calls about WAL.
type (
	cluster struct {
		Version  string `json:"version"`
		SystemID uint64 `json:"system_id,string"`
	}
	archiveID struct {
		ID string `json:"archive_id"`
		cluster
		Cipher string `json:"cipher_pass,omitempty"` // of all WAL of the stanza
	}
	archiveIDs struct {
		IDs    []string `json:"archive_ids"`
		Cipher string   `json:"cipher_pass,omitempty"`
	}
	findArgs struct {
		IDs  []string `json:"archive_ids"`
		Name string   `json:"name"`
	}
	walFiles struct {
		Files []walFile `json:"files"`
	}
	walFile struct {
		ID   string `json:"archive_id"`
		File string `json:"file"` // the name it is stored under, without directory
	}
	getArgs struct {
		Name string `json:"name"`
		walFile
	}
	walArgs struct {
		ID       string `json:"archive_id"`
		Name     string `json:"name"`
		Sum      string `json:"xxh3,omitempty"` // of a segment's content, hexadecimal
		SHA1     string `json:"sha1,omitempty"` // told when the other side asks for it
		Compress string `json:"compress"`
	}
	walResult struct {
		Outcome string `json:"outcome"`
	}
)

var outcomes = words[repo.Outcome]{repo.Stored: "stored", repo.Present: "present", repo.Repaired: "repaired", repo.Unnamed: "unnamed"}

func (s *archiveService) id(ctx context.Context, _ *protocol.Call) (any, error) {
	id, c, err := s.repo.ArchiveID(ctx)
	if err != nil {
		return nil, err
	}
	pass, err := s.repo.ArchivePass(ctx)
	if err != nil {
		return nil, err
	}
	return archiveID{id.String(), cluster{c.Version.String(), c.SystemID}, pass.Reveal()}, nil
}

func (s *archiveService) ids(ctx context.Context, c *protocol.Call) (any, error) {
	var args cluster
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	version, err := postgres.ParseVersion(args.Version)
	if err != nil {
		return nil, err
	}
	ids, err := s.repo.ArchiveIDs(ctx, repo.Cluster{Version: version, SystemID: args.SystemID})
	if err != nil {
		return nil, err
	}
	pass, err := s.repo.ArchivePass(ctx)
	if err != nil {
		return nil, err
	}
	return archiveIDs{spell(ids), pass.Reveal()}, nil
}

func spell(ids []format.ArchiveID) []string {
	var words []string
	for _, id := range ids {
		words = append(words, id.String())
	}
	return words
}

// known gives archive ids that came over the wire, if the stanza has or had them.
func (s *archiveService) known(ctx context.Context, words ...string) ([]format.ArchiveID, error) {
	info, err := s.repo.ArchiveInfo(ctx)
	if err != nil {
		return nil, err
	}
	var ids []format.ArchiveID
	for _, word := range words {
		id, err := format.ParseArchiveID(word)
		if err != nil {
			return nil, err
		}
		had := func(c format.Cluster) bool { return id == format.ArchiveID{Version: c.Version, ID: c.ID} }
		if !slices.ContainsFunc(info.History(), had) {
			return nil, errs.New(errs.ArchiveMismatch, "stanza '%s' has no archive id '%s'", s.repo.Stanza(), id)
		}
		if !slices.Contains(ids, id) { // each is a directory to look into
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *archiveService) find(ctx context.Context, c *protocol.Call) (any, error) {
	var args findArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	ids, err := s.known(ctx, args.IDs...)
	if err != nil {
		return nil, err
	}
	found, err := s.repo.FindWAL(ctx, ids, args.Name)
	if err != nil {
		return nil, err
	}
	result := walFiles{Files: []walFile{}}
	for _, f := range found {
		result.Files = append(result.Files, walFile{f.ID.String(), path.Base(f.Object)})
	}
	return result, nil
}

// get gives what find would give now, and nothing else.
func (s *archiveService) get(ctx context.Context, c *protocol.Call) (any, error) {
	var args getArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	ids, err := s.known(ctx, args.ID)
	if err != nil {
		return nil, err
	}
	found, err := s.repo.FindWAL(ctx, ids, args.Name)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(found, func(f repo.WALFile) bool { return path.Base(f.Object) == args.File })
	if i < 0 {
		return nil, errs.New(errs.FileMissing, "WAL file '%s' is not in the %s archive as '%s': %w",
			args.Name, s.repo.Name(), args.File, fs.ErrNotExist)
	}
	in, err := s.repo.Storage().Open(ctx, found[i].Object, storage.Range{})
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(c.Out(), in)
	return nil, errors.Join(err, in.Close())
}

func (s *archiveService) put(ctx context.Context, c *protocol.Call) (any, error) {
	var args walArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	if s.Stopped != nil {
		if err := s.Stopped(); err != nil {
			return nil, err
		}
	}
	id, err := format.ParseArchiveID(args.ID)
	if err != nil {
		return nil, err
	}
	in := repo.WALStream{Name: args.Name, Compress: compress.Type(args.Compress), In: c.In(), SkipHeader: s.SkipHeaderCheck}
	if args.Sum != "" { // history files come without
		sum, err := unhex(args.Sum, len(in.Sum), "XXH3")
		if err != nil {
			return nil, err
		}
		in.Sum = (*[16]byte)(sum)
	}
	if args.SHA1 != "" {
		sum, err := unhex(args.SHA1, len(in.SHA1), "SHA-1")
		if err != nil {
			return nil, err
		}
		in.SHA1 = (*[20]byte)(sum)
	}
	how, err := s.repo.TakeWAL(ctx, id, in)
	if err != nil {
		return nil, err
	}
	return walResult{outcomes[how]}, nil
}

// unhex reads a checksum of so many bytes.
func unhex(text string, size int, kind string) ([]byte, error) {
	sum, err := hex.DecodeString(text)
	if err != nil || len(sum) != size {
		return nil, errs.New(errs.Format, "'%s' is not the %s of a WAL file", text, kind)
	}
	return sum, nil
}

// Archive is the archive of a stanza on another host as RoleArchive sees it, with the
// methods of repo.Repo. WAL is encrypted and decrypted here, with the passphrase that the other
// host tells.
type Archive struct {
	p      protocol.Caller
	stanza string
	agree  func(encrypted bool) error

	mu    sync.Mutex
	asked bool // pass is known
	pass  cipher.Pass
}

// NewArchive gives the archive that an ArchiveService of that stanza offers to p. Whenever the other
// host says whether it is encrypted, agree may refuse that.
func NewArchive(p protocol.Caller, stanza string, agree func(encrypted bool) error) *Archive {
	return &Archive{p: p, stanza: stanza, agree: agree}
}

// tells notes what the other host said of encryption.
func (a *Archive) tells(pass string) error {
	if err := a.agree(pass != ""); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked, a.pass = true, cipher.NewPass(pass)
	return nil
}

// ArchivePass gives what WAL is encrypted with, none if it is not.
func (a *Archive) ArchivePass(ctx context.Context) (cipher.Pass, error) {
	known := func() (bool, cipher.Pass) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.asked, a.pass
	}
	if asked, pass := known(); asked {
		return pass, nil
	}
	_, _, err := a.ArchiveID(ctx)
	_, pass := known()
	return pass, err
}

// forget has the passphrase asked for again: after what was refused because of it, whatever the
// reason given, as the stanza may have been made anew.
func (a *Archive) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = false
}

// ArchiveID gives what the archive is for now.
func (a *Archive) ArchiveID(ctx context.Context) (format.ArchiveID, repo.Cluster, error) {
	fail := func(err error) (format.ArchiveID, repo.Cluster, error) {
		return format.ArchiveID{}, repo.Cluster{}, err
	}
	var r archiveID
	if err := a.p.Call(ctx, "archive-id", nil, &r); err != nil {
		return fail(err)
	}
	if err := a.tells(r.Cipher); err != nil {
		return fail(err)
	}
	id, err := format.ParseArchiveID(r.ID)
	if err != nil {
		return fail(err)
	}
	version, err := postgres.ParseVersion(r.Version)
	if err != nil {
		return fail(err)
	}
	return id, repo.Cluster{Version: version, SystemID: r.SystemID}, nil
}

// ArchiveIDs gives every archive id the cluster c can have archived to, newest first.
func (a *Archive) ArchiveIDs(ctx context.Context, c repo.Cluster) ([]format.ArchiveID, error) {
	var r archiveIDs
	if err := a.p.Call(ctx, "archive-ids", cluster{c.Version.String(), c.SystemID}, &r); err != nil {
		return nil, err
	}
	if err := a.tells(r.Cipher); err != nil {
		return nil, err
	}
	var ids []format.ArchiveID
	for _, word := range r.IDs {
		id, err := format.ParseArchiveID(word)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// FindWAL looks a file up under the archive ids, in their order. What is not there is an
// empty result.
func (a *Archive) FindWAL(ctx context.Context, ids []format.ArchiveID, name string) ([]repo.WALFile, error) {
	var r walFiles
	if err := a.p.Call(ctx, "wal-find", findArgs{spell(ids), name}, &r); err != nil {
		return nil, err
	}
	var found []repo.WALFile
	for _, w := range r.Files {
		id, err := format.ParseArchiveID(w.ID)
		if err != nil {
			return nil, err
		}
		f, ok := repo.NewWALFile(a.stanza, id, name, w.File)
		if !ok {
			return nil, errs.New(errs.Protocol, "asked for WAL file '%s', the archive offers '%s'", name, w.File)
		}
		found = append(found, f)
	}
	return found, nil
}

// OpenWAL gives the content of a file found, see repo.Repo.OpenWAL. It is decrypted, decoded
// and verified here.
func (a *Archive) OpenWAL(ctx context.Context, f repo.WALFile, size int64) (io.ReadCloser, error) {
	pass, err := a.ArchivePass(ctx)
	if err != nil {
		return nil, err
	}
	in, err := a.p.Receive(ctx, "wal-get", getArgs{f.Request, walFile{f.ID.String(), path.Base(f.Object)}})
	if err != nil {
		return nil, err
	}
	return repo.LoadWAL(in, f, pass, size)
}

// PutWAL stores a file under the archive id, which must be the current one. It is compressed
// and encrypted here and verified there before it appears.
func (a *Archive) PutWAL(ctx context.Context, id format.ArchiveID, src repo.WALSource) (repo.Outcome, error) {
	wal, err := postgres.ParseWALName(src.Name)
	if err != nil {
		return 0, err
	}
	args := walArgs{ID: id.String(), Name: src.Name, Compress: string(compress.None)}
	if wal.Kind == postgres.Segment || wal.Kind == postgres.Partial {
		args.Sum, args.Compress = hex.EncodeToString(src.Sum[:]), string(src.Compress)
	}
	how, err := a.send(ctx, args, src)
	if err == nil && how == repo.Unnamed && args.Sum != "" {
		// There is something to compare it with.
		var sum [20]byte
		if sum, err = src.SHA1(); err != nil {
			return 0, err
		}
		args.SHA1 = hex.EncodeToString(sum[:])
		how, err = a.send(ctx, args, src)
	}
	if err == nil && how == repo.Unnamed {
		return 0, errs.New(errs.Protocol, "the archive has not stored WAL file '%s' and asks for nothing that it was not told", src.Name)
	}
	return how, err
}

func (a *Archive) send(ctx context.Context, args walArgs, src repo.WALSource) (repo.Outcome, error) {
	pass, err := a.ArchivePass(ctx)
	if err != nil {
		return 0, err
	}
	in, err := src.Open()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := pipeline.NewStore(in, pipeline.StoreSpec{
		Compress: compress.Type(args.Compress), Level: src.Level, Cipher: pass, Limit: -1,
		// The other side compares the checksum, there is no need to compute one here once more.
		SHA1: new([20]byte),
	})
	if err != nil {
		return 0, err
	}
	defer out.Close()
	var r walResult
	if err := a.p.Send(ctx, "wal-put", args, until{ctx.Err, out}, &r); err != nil {
		a.forget()
		if errs.CodeOf(err) == errs.Checksum && !src.Fixed {
			err = errs.WithHint(err, "did the file change while it was sent?")
		}
		return 0, err
	}
	return outcomes.value(r.Outcome)
}
