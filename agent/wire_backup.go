package agent

import (
	"encoding/binary"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/compress"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// The calls of RoleBackup.
const (
	callControl            = "control"
	callRunning            = "running"
	callConnect            = "connect"
	callDisconnect         = "disconnect"
	callFacts              = "facts"
	callDatabases          = "databases"
	callTablespaces        = "tablespaces"
	callNow                = "now"
	callAlive              = "alive"
	callReplayed           = "replayed"
	callCheckpoint         = "checkpoint"
	callStartBackup        = "start-backup"
	callStopBackup         = "stop-backup"
	callCreateRestorePoint = "create-restore-point"
	callSwitchWAL          = "switch-wal"
	callSummaries          = "summaries"
	callChanged            = "changed"
	callListFiles          = "list-files"
	callReadFile           = "read-file"
)

// Arguments and results of calls. What has none here is, as JSON, the struct of the package
// that does it: postgres.Control, pgsql.Facts, pgsql.Backup, pgsql.BackupStop,
// pgsql.SummaryState, and lists of pgsql.Database, pgsql.Tablespace and pgsql.Changed.
type (
	runningResult struct {
		Running bool `json:"running"`
	}
	nowResult struct {
		Now time.Time `json:"now"`
	}
	replayedResult struct {
		LSN postgres.LSN `json:"lsn"`
	}
	startBackupArgs struct {
		Label        string `json:"label"`
		Fast         bool   `json:"fast"`
		CheckArchive bool   `json:"check_archive"`
	}
	restorePointArgs struct {
		Name string `json:"name"`
	}
	restorePointResult struct {
		LSN postgres.LSN `json:"lsn"`
	}
	switchWALResult struct {
		Segment string `json:"segment"`
	}
	changedArgs struct {
		Timeline postgres.Timeline `json:"timeline"`
		From     postgres.LSN      `json:"from"`
		To       postgres.LSN      `json:"to"`
	}
)

// listFilesArgs is a pgdata.Listing.
type listFilesArgs struct {
	Version        postgres.Version `json:"version"`
	CatalogVersion uint32           `json:"catalog_version"`
	Online         bool             `json:"online"`
	Exclude        []string         `json:"exclude,omitempty"`
	Bytes          bool             `json:"bytes,omitempty"` // see pack
}

func packListing(l pgdata.Listing) listFilesArgs {
	a := listFilesArgs{Version: l.Version, CatalogVersion: l.CatalogVersion, Online: l.Online, Exclude: slices.Clone(l.Exclude)}
	a.Bytes = pack(pointers(a.Exclude)...)
	return a
}

func (a listFilesArgs) listing() (pgdata.Listing, error) {
	if err := unpack(a.Bytes, pointers(a.Exclude)...); err != nil {
		return pgdata.Listing{}, err
	}
	if !a.Version.Supported() {
		return pgdata.Listing{}, errs.New(errs.ParamInvalid, "PostgreSQL %s is not supported, only %d to %d", a.Version, postgres.Oldest, postgres.Newest)
	}
	if slices.Contains(a.Exclude, "") {
		return pgdata.Listing{}, errs.New(errs.ParamInvalid, "an empty name cannot be excluded")
	}
	return pgdata.Listing{Version: a.Version, CatalogVersion: a.CatalogVersion, Online: a.Online, Exclude: a.Exclude}, nil
}

func pointers(s []string) []*string {
	all := make([]*string, len(s))
	for i := range s {
		all[i] = &s[i]
	}
	return all
}

// kinds are the names of the kinds of a pgdata.Entry.
var kinds = [...]string{pgdata.Dir: "dir", pgdata.File: "file", pgdata.Link: "link", pgdata.Special: "special", pgdata.Excluded: "excluded"}

// wireEntry is a pgdata.Entry.
type wireEntry struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Mode       uint32 `json:"mode,omitempty"`
	User       string `json:"user,omitempty"`
	Group      string `json:"group,omitempty"`
	Size       int64  `json:"size,omitempty"`
	ModTime    int64  `json:"mtime,omitempty"`
	Target     string `json:"target,omitempty"`
	ToFile     bool   `json:"to_file,omitempty"`
	Tablespace uint32 `json:"tablespace,omitempty"`
	Path       string `json:"path,omitempty"`
	Exclusion  string `json:"exclusion,omitempty"`
	Bytes      bool   `json:"bytes,omitempty"` // see pack
}

func packEntry(e pgdata.Entry) wireEntry {
	w := wireEntry{
		Kind: kinds[e.Kind], Name: e.Name, Mode: uint32(e.Mode), User: e.User, Group: e.Group, Size: e.Size, ModTime: e.ModTime,
		Target: e.Target, ToFile: e.ToFile, Tablespace: e.Tablespace, Path: e.Path, Exclusion: e.Exclusion,
	}
	w.Bytes = pack(&w.Name, &w.User, &w.Group, &w.Target, &w.Path, &w.Exclusion)
	return w
}

// entry gives what an agent has sent. Names become names in a repository: those that
// would lead out of one are refused, whoever sends them.
func (w wireEntry) entry() (pgdata.Entry, error) {
	if err := unpack(w.Bytes, &w.Name, &w.User, &w.Group, &w.Target, &w.Path, &w.Exclusion); err != nil {
		return pgdata.Entry{}, err
	}
	kind := slices.Index(kinds[:], w.Kind)
	e := pgdata.Entry{
		Kind: pgdata.Kind(kind), Name: w.Name, Mode: fs.FileMode(w.Mode), User: w.User, Group: w.Group, Size: w.Size, ModTime: w.ModTime,
		Target: w.Target, ToFile: w.ToFile, Tablespace: w.Tablespace, Path: w.Path, Exclusion: w.Exclusion,
	}
	first, _, _ := strings.Cut(w.Name, "/")
	switch {
	case path.Clean(w.Name) != w.Name || strings.ContainsRune(w.Name, 0) || first != "pg_data" && first != "pg_tblspc":
		return e, errs.New(errs.Protocol, "a list of files has '%s', which is not a name in a data directory", w.Name)
	case kind < 0, w.Mode > 0o777, w.Size < 0, e.Kind == pgdata.Excluded && w.Exclusion == "":
		return e, errs.New(errs.Protocol, "what a list of files says of '%s' cannot be true", w.Name)
	}
	return e, nil
}

// readFileArgs is a pgdata.Read.
type readFileArgs struct {
	Name     string      `json:"name"`
	Limit    int64       `json:"limit"`
	Compress string      `json:"compress"`
	Level    int         `json:"level"`
	Cipher   string      `json:"cipher_pass,omitempty"`
	Raw      bool        `json:"raw,omitempty"`
	Blocks   *wireBlocks `json:"blocks,omitempty"`
	Pages    *wirePages  `json:"pages,omitempty"`
	Expected *wireKnown  `json:"expected,omitempty"`
	Bytes    bool        `json:"bytes,omitempty"` // see pack

	// Sent says that all this comes as a record of the client's data, for which a request has no bound.
	Sent bool `json:"sent,omitempty"`
}

// wireBlocks is a pgdata.Blocks. The prior map of a file of 1 GiB in the smallest blocks has about 1 MiB, with checksums that are not cut
// 2 MiB. Files can be larger, and so can be the maps.
type wireBlocks struct {
	Size      int64  `json:"size"`
	SumSize   int    `json:"sum_size"`
	SuperSize int64  `json:"super_size"`
	Prior     []byte `json:"prior,omitempty"`
	Reference int    `json:"reference"`
	Bundle    uint32 `json:"bundle,omitempty"`
	Offset    int64  `json:"offset,omitempty"`
}

// wireKnown is a pgdata.Expected.
type wireKnown struct {
	Size   int64  `json:"size"`
	SHA1   []byte `json:"sha1"`
	Always bool   `json:"always,omitempty"`
}

type wirePages struct {
	Size    int    `json:"size"`
	Segment uint32 `json:"segment"`
	Header  bool   `json:"header"`
}

func packRead(r pgdata.Read) readFileArgs {
	a := readFileArgs{Name: r.Name, Limit: r.Limit, Compress: string(r.Compress), Level: r.Level, Cipher: r.Cipher.Reveal(),
		Raw: r.Raw, Blocks: (*wireBlocks)(r.Blocks), Pages: (*wirePages)(r.Pages)}
	if e := r.Expected; e != nil {
		a.Expected = &wireKnown{Size: e.Size, SHA1: e.SHA1[:], Always: e.Always}
	}
	a.Bytes = pack(&a.Name)
	return a
}

func (a readFileArgs) read() (pgdata.Read, error) {
	if err := unpack(a.Bytes, &a.Name); err != nil {
		return pgdata.Read{}, err
	}
	codec, err := compress.ParseType(a.Compress)
	if err != nil {
		return pgdata.Read{}, err
	}
	low, high := codec.LevelRange()
	switch {
	case a.Level < low || a.Level > high:
		return pgdata.Read{}, errs.New(errs.ParamInvalid, "compress type '%s' has no level %d, only %d to %d", codec, a.Level, low, high)
	case a.Limit < -1:
		return pgdata.Read{}, errs.New(errs.ParamInvalid, "limit %d of '%s' is negative", a.Limit, a.Name)
	case a.Pages != nil && !postgres.ValidPageSize(a.Pages.Size):
		return pgdata.Read{}, errs.New(errs.ParamInvalid, "page size %d is not valid", a.Pages.Size)
	case a.Expected != nil && (a.Expected.Size < 0 || len(a.Expected.SHA1) != 20):
		return pgdata.Read{}, errs.New(errs.ParamInvalid, "what is expected of '%s' cannot be", a.Name)
	}
	r := pgdata.Read{Name: a.Name, Limit: a.Limit, Compress: codec, Level: a.Level, Cipher: cipher.NewPass(a.Cipher),
		Raw: a.Raw, Blocks: (*pgdata.Blocks)(a.Blocks), Pages: (*pgdata.Pages)(a.Pages)}
	if e := a.Expected; e != nil {
		r.Expected = &pgdata.Expected{Size: e.Size, SHA1: [20]byte(e.SHA1), Always: e.Always}
	}
	return r, nil
}

// readFileResult is a pipeline.Result; or, if the file holds what was expected and there is no
// data, Unchanged alone.
type readFileResult struct {
	Unchanged bool `json:"unchanged,omitempty"`

	Size     int64           `json:"size"`
	SHA1     []byte          `json:"sha1"`
	RepoSize int64           `json:"repo_size"`
	RepoSHA1 []byte          `json:"repo_sha1"`
	MapSize  int64           `json:"map_size,omitempty"`
	Pages    *wirePageResult `json:"pages,omitempty"`
}

// wirePageResult is a pipeline.PageResult. A file in ruins has 65536 ranges of pages that
// fail, so they are packed: of each range a varint of how many good pages precede it, and
// one of how many pages follow its first.
type wirePageResult struct {
	Valid   bool   `json:"valid"`
	Aligned bool   `json:"aligned"`
	Errors  []byte `json:"errors,omitempty"`
}

func packResult(r pipeline.Result) readFileResult {
	w := readFileResult{Size: r.Size, SHA1: r.SHA1[:], RepoSize: r.RepoSize, RepoSHA1: r.RepoSHA1[:], MapSize: r.MapSize}
	if r.Pages == nil {
		return w
	}
	w.Pages = &wirePageResult{Valid: r.Pages.Valid, Aligned: r.Pages.Aligned}
	next := uint32(0)
	for _, p := range r.Pages.Errors {
		w.Pages.Errors = binary.AppendUvarint(w.Pages.Errors, uint64(p.First-next))
		w.Pages.Errors = binary.AppendUvarint(w.Pages.Errors, uint64(p.Last-p.First))
		next = p.Last + 1
	}
	return w
}

// asked is what decides which answers about a file can be true.
type asked struct {
	blocks bool // it is to be stored in blocks
	prior  bool // of which a map is known
	known  bool // it can be unchanged
	pages  bool // its pages are to be checked
}

func askedOf(r pgdata.Read) asked {
	a := asked{blocks: r.Blocks != nil, prior: r.Blocks != nil && r.Blocks.Prior != nil, pages: r.Pages != nil}
	a.known = r.Expected != nil || a.prior
	return a
}

// result gives what an agent says of a file of which received bytes have come. In blocks there is a map of all that is
// stored, else there is none; only pages that were asked for are told of; and of a file with bytes something is stored, unless all of its blocks can be elsewhere.
func (w readFileResult) result(received int64, a asked) (pipeline.Result, error) {
	bad := errs.New(errs.Protocol, "what is said of a file cannot be true")
	mapped := a.blocks && w.RepoSize > 0
	if len(w.SHA1) != 20 || len(w.RepoSHA1) != 20 || w.Size < 0 || w.RepoSize != received ||
		w.MapSize < 0 || w.MapSize > w.RepoSize || mapped != (w.MapSize > 0) ||
		mapped && w.Size == 0 || w.Pages != nil && !a.pages || w.Size > 0 && w.RepoSize == 0 && !a.prior {
		return pipeline.Result{}, bad
	}
	r := pipeline.Result{Size: w.Size, SHA1: [20]byte(w.SHA1), RepoSize: w.RepoSize, RepoSHA1: [20]byte(w.RepoSHA1), MapSize: w.MapSize}
	if w.Pages == nil {
		return r, nil
	}
	r.Pages = &pipeline.PageResult{Valid: w.Pages.Valid, Aligned: w.Pages.Aligned}
	for next, rest := uint64(0), w.Pages.Errors; len(rest) > 0; {
		gap, n := binary.Uvarint(rest)
		more, m := binary.Uvarint(rest[max(n, 0):])
		const limit = 1 << 32
		if n <= 0 || m <= 0 || gap >= limit || more >= limit || next+gap+more >= limit {
			return pipeline.Result{}, bad
		}
		rest = rest[n+m:]
		r.Pages.Errors = append(r.Pages.Errors, pipeline.PageRange{First: uint32(next + gap), Last: uint32(next + gap + more)})
		next += gap + more + 1
	}
	return r, nil
}

// checkControl refuses what no pg_control says: sizes are divided by.
func checkControl(c postgres.Control) error {
	if !postgres.ValidPageSize(c.PageSize) || !postgres.IsSegmentSize(c.WALSegmentSize) {
		return errs.New(errs.Protocol, "pg_control with page size %d and WAL segment size %d cannot be true", c.PageSize, c.WALSegmentSize)
	}
	return nil
}

func checkFacts(f pgsql.Facts) error {
	if !postgres.ValidPageSize(f.BlockSize) || !postgres.IsSegmentSize(f.WALSegmentSize) {
		return errs.New(errs.Protocol, "PostgreSQL with page size %d and WAL segment size %d cannot be true", f.BlockSize, f.WALSegmentSize)
	}
	return nil
}

// checkSegment refuses what is not the name of a WAL segment: it is looked for in an archive.
func checkSegment(name string) error {
	if w, err := postgres.ParseWALName(name); err != nil || w.Segment() != name {
		return errs.New(errs.Protocol, "'%s' is not the name of a WAL segment", name)
	}
	return nil
}
