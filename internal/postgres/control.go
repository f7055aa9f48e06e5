package postgres

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
)

const (
	// ControlFileSize is the size of pg_control in bytes.
	ControlFileSize = 8192
	// ControlDataSize is how many bytes of it can hold anything: PostgreSQL keeps to one
	// disk sector so that a write of it is never torn. Reading these is enough.
	ControlDataSize = 512

	// invalidCheckpoint is in the first WAL segment, which PostgreSQL never uses.
	invalidCheckpoint LSN = 0xDEAD

	minSegmentSize = 1 << 20
	// MaxSegmentSize is how large a WAL segment can be, in bytes.
	MaxSegmentSize = 1 << 30
)

// Offsets in pg_control, the same in all supported versions (struct ControlFileData in
// PostgreSQL's catalog/pg_control.h); that of the CRC is in releases.
const (
	controlSystemID            = 0
	controlVersion             = 8
	controlCatalog             = 12
	controlState               = 16
	controlTime                = 24
	controlCheckpoint          = 32
	controlRedo                = 40
	controlTimeline            = 48
	controlMinRecovery         = 136
	controlMinRecoveryTimeline = 144
	controlBackupStart         = 152
	controlBackupEnd           = 160
	controlBackupEndRequired   = 168
	controlPageSize            = 216
	controlSegmentPages        = 220
	controlWALSegmentSize      = 228
	controlChecksum            = 252
)

// State is the state of a cluster as pg_control has it (enum DBState).
type State uint32

// The states of a cluster.
const (
	StartingUp State = iota
	ShutDown
	ShutDownInRecovery
	ShuttingDown
	InCrashRecovery
	InArchiveRecovery
	InProduction
)

// String gives the state in pg_controldata's words.
func (s State) String() string {
	switch s {
	case StartingUp:
		return "starting up"
	case ShutDown:
		return "shut down"
	case ShutDownInRecovery:
		return "shut down in recovery"
	case ShuttingDown:
		return "shutting down"
	case InCrashRecovery:
		return "in crash recovery"
	case InArchiveRecovery:
		return "in archive recovery"
	case InProduction:
		return "in production"
	}
	return "unrecognized status code"
}

// Control is what pgx needs of pg_control. Sizes are in bytes.
type Control struct {
	SystemID       uint64
	ControlVersion uint32
	CatalogVersion uint32
	Version        Version

	State    State
	Modified time.Time // of the last update, whole seconds, UTC

	Checkpoint LSN      // the latest checkpoint's record
	Redo       LSN      // where replay from that checkpoint starts
	Timeline   Timeline // of that checkpoint

	MinRecovery         LSN // replay must reach it before the cluster is consistent; 0 outside archive recovery
	MinRecoveryTimeline Timeline
	BackupStart         LSN // while recovering from a backup whose end was not reached, else 0
	BackupEnd           LSN
	BackupEndRequired   bool

	PageSize        int
	SegmentPages    uint32 // pages in a full segment of a relation: 1 GiB unless PostgreSQL was built specially
	WALSegmentSize  int64
	ChecksumVersion uint32 // 0 without page checksums, else 1
}

// ParseControl reads pg_control, of which b holds the first ControlDataSize bytes or more.
// A version pgx does not know is a VersionNotSupported error, a wrong CRC a Checksum
// error, too few bytes or values that no PostgreSQL writes a Format error.
//
// PostgreSQL may be writing the file while it is read, and not every file system keeps
// the two apart: read again before believing an error.
func ParseControl(b []byte) (Control, error) {
	c, _, err := parseControl(b)
	return c, err
}

func parseControl(b []byte) (Control, release, error) {
	r, err := checkControl(b)
	if err != nil {
		return Control{}, r, err
	}
	le := binary.LittleEndian
	lsn := func(at int) LSN { return LSN(le.Uint64(b[at:])) }
	c := Control{
		SystemID:            le.Uint64(b[controlSystemID:]),
		ControlVersion:      le.Uint32(b[controlVersion:]),
		CatalogVersion:      le.Uint32(b[controlCatalog:]),
		Version:             r.version,
		State:               State(le.Uint32(b[controlState:])),
		Modified:            time.Unix(int64(le.Uint64(b[controlTime:])), 0).UTC(),
		Checkpoint:          lsn(controlCheckpoint),
		Redo:                lsn(controlRedo),
		Timeline:            Timeline(le.Uint32(b[controlTimeline:])),
		MinRecovery:         lsn(controlMinRecovery),
		MinRecoveryTimeline: Timeline(le.Uint32(b[controlMinRecoveryTimeline:])),
		BackupStart:         lsn(controlBackupStart),
		BackupEnd:           lsn(controlBackupEnd),
		BackupEndRequired:   b[controlBackupEndRequired] != 0,
		PageSize:            int(le.Uint32(b[controlPageSize:])),
		SegmentPages:        le.Uint32(b[controlSegmentPages:]),
		WALSegmentSize:      int64(le.Uint32(b[controlWALSegmentSize:])),
		ChecksumVersion:     le.Uint32(b[controlChecksum:]),
	}
	if err := checkSegmentSize(c.WALSegmentSize); err != nil {
		return Control{}, r, errs.Wrap(err, "pg_control")
	}
	if !ValidPageSize(c.PageSize) {
		return Control{}, r, errs.New(errs.Format, "pg_control has page size %d, not a power of two from 1024 to 32768", c.PageSize)
	}
	if c.ChecksumVersion > 1 {
		return Control{}, r, errs.New(errs.Format, "pg_control has page checksum version %d, only 0 and 1 are known", c.ChecksumVersion)
	}
	return c, r, nil
}

// checkControl tells the release whose pg_control b is, after comparing its CRC.
func checkControl(b []byte) (release, error) {
	if len(b) < ControlDataSize {
		return release{}, errs.New(errs.Format, "pg_control has %d bytes but at least %d are expected", len(b), ControlDataSize)
	}
	le := binary.LittleEndian
	r, err := releaseOf(le.Uint32(b[controlVersion:]), le.Uint32(b[controlCatalog:]))
	if err != nil {
		return release{}, err
	}
	if got, want := controlCRC(b[:r.crc]), le.Uint32(b[r.crc:]); got != want {
		return release{}, errs.WithHint(
			errs.New(errs.Checksum, "calculated pg_control checksum 0x%08x does not match the expected value 0x%08x", got, want),
			"is pg_control corrupt, or written by a PostgreSQL that changed its layout?")
	}
	return r, nil
}

func controlCRC(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func checkSegmentSize(size int64) error {
	if size < minSegmentSize || size > MaxSegmentSize || size&(size-1) != 0 {
		return errs.New(errs.Format, "wal segment size is %d, not a power of two from %d to %d", size, minSegmentSize, MaxSegmentSize)
	}
	return nil
}

// ClearControl gives what a backup stores for pg_control, of which b holds at least
// ControlDataSize bytes that ParseControl accepts: a file of full size in which nothing
// follows those bytes.
func ClearControl(b []byte) []byte {
	cleared := make([]byte, ControlFileSize)
	copy(cleared, b[:min(len(b), ControlDataSize)])
	return cleared
}

// InvalidateControl gives pg_control, of which b holds ControlDataSize bytes or more, as a
// restore of an online backup writes it: with a checkpoint that does not exist. A cluster
// that has lost its backup_label then refuses to start, instead of replaying from a
// checkpoint that is too late and being corrupt. backup_label names the real one. Errors
// are those of ParseControl; b is left as it is.
func InvalidateControl(b []byte) ([]byte, error) {
	_, r, err := parseControl(b)
	if err != nil {
		return nil, err
	}
	marked := append([]byte(nil), b...)
	binary.LittleEndian.PutUint64(marked[controlCheckpoint:], uint64(invalidCheckpoint))
	binary.LittleEndian.PutUint32(marked[r.crc:], controlCRC(marked[:r.crc]))
	return marked, nil
}

// ControlInvalidated tells whether c is as InvalidateControl, or pgBackRest's restore,
// leaves it.
func ControlInvalidated(c Control) bool { return c.Checkpoint == invalidCheckpoint }
