package pgsql

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
)

// Facts is what the server says about its cluster.
type Facts struct {
	ServerVersion int              // as server_version_num: 150018 is 15.18
	Version       postgres.Version // its major
	SystemID      uint64
	DataDirectory string
	Port          int

	ArchiveMode    string // off, on or always
	ArchiveCommand string // "(disabled)" when ArchiveMode is off
	ArchiveLibrary string // from PostgreSQL 15 on

	WALSegmentSize    int64 // bytes
	BlockSize         int   // bytes
	DataChecksums     bool
	WALLogHints       bool          // of pages without checksums too, WAL tells when only hints in them change
	CheckpointTimeout time.Duration // without a fast start a backup may wait that long

	InRecovery     bool
	Timeline       postgres.Timeline // of the last checkpoint, as the next ones
	Checkpoint     postgres.LSN
	Redo           postgres.LSN
	CheckpointTime time.Time

	Now time.Time // the server's clock
}

// settings are the names of pg_settings that Facts needs; archive_library is optional.
const settings = "select name, setting from pg_catalog.pg_settings where name in ('data_directory', 'port'," +
	" 'archive_mode', 'archive_command', 'archive_library', 'wal_segment_size', 'block_size', 'data_checksums'," +
	" 'checkpoint_timeout', 'wal_log_hints')"

// Facts asks the server about its cluster. A user that may not read all settings gets
// errs.DbQuery with what to grant.
func (c *Conn) Facts(ctx context.Context) (Facts, error) {
	f := Facts{ServerVersion: c.version, Version: postgres.Version(c.version / 10000)}
	rows, err := c.query(ctx, settings)
	if err != nil {
		return Facts{}, err
	}
	setting := map[string]string{}
	for _, r := range rows {
		setting[r.text()] = r.text()
	}
	var hidden []string
	for _, name := range []string{
		"data_directory", "port", "archive_mode", "archive_command", "wal_segment_size", "block_size", "data_checksums",
		"checkpoint_timeout",
	} {
		if _, ok := setting[name]; !ok {
			hidden = append(hidden, name)
		}
	}
	if len(hidden) > 0 {
		return Facts{}, errs.WithHint(
			errs.New(errs.DbQuery, "unable to select some rows from pg_settings: user '%s' may not read %s",
				c.user, strings.Join(hidden, ", ")),
			"run as a superuser: GRANT pg_read_all_settings TO %s;", quoteIdent(c.user))
	}
	number := func(name string) int64 {
		n, convErr := strconv.ParseInt(setting[name], 10, 64)
		if convErr != nil && err == nil {
			err = errs.New(errs.Format, "setting %s is '%s', not a number", name, setting[name])
		}
		return n
	}
	f.DataDirectory = setting["data_directory"]
	f.Port = int(number("port"))
	f.ArchiveMode, f.ArchiveCommand, f.ArchiveLibrary = setting["archive_mode"], setting["archive_command"], setting["archive_library"]
	f.WALSegmentSize = number("wal_segment_size")
	f.BlockSize = int(number("block_size"))
	f.DataChecksums, f.WALLogHints = setting["data_checksums"] == "on", setting["wal_log_hints"] == "on"
	f.CheckpointTimeout = time.Duration(number("checkpoint_timeout")) * time.Second
	if err != nil {
		return Facts{}, err
	}

	r, err := c.queryRow(ctx, "select system.system_identifier, pg_catalog.pg_is_in_recovery(), point.timeline_id,"+
		" point.checkpoint_lsn, point.redo_lsn, "+microseconds("point.checkpoint_time")+", "+
		microseconds("pg_catalog.clock_timestamp()")+
		" from pg_catalog.pg_control_system() as system, pg_catalog.pg_control_checkpoint() as point",
		"pg_control_system()", "pg_control_checkpoint()")
	if err != nil {
		return Facts{}, err
	}
	f.SystemID = uint64(r.int()) // an unsigned number that SQL shows as a signed one
	f.InRecovery = r.bool()
	f.Timeline = postgres.Timeline(r.int())
	f.Checkpoint = r.lsn()
	f.Redo = r.lsn()
	f.CheckpointTime = r.time()
	f.Now = r.time()
	if r.err != nil {
		return Facts{}, r.err
	}
	return f, nil
}

func (r *row) lsn() postgres.LSN {
	v := r.text()
	lsn, err := postgres.ParseLSN(v)
	if r.err == nil && err != nil {
		r.bad(v, "a log sequence number")
	}
	return lsn
}

// Now gives the server's clock: the one by which it changes the files of the cluster.
func (c *Conn) Now(ctx context.Context) (time.Time, error) {
	r, err := c.queryRow(ctx, "select "+microseconds("pg_catalog.clock_timestamp()"))
	if err != nil {
		return time.Time{}, err
	}
	now := r.time()
	return now, r.err
}

// Database is a database of the cluster. LastSystemOID is, of every database, the oid
// of template0, as pgBackRest records it: what it wrote as datlastsysoid before
// PostgreSQL 15 removed that. It is 0 where template0 has been dropped.
type Database struct {
	Name          string
	OID           uint32
	LastSystemOID uint32
}

// Databases gives all databases in the order of their oids.
func (c *Conn) Databases(ctx context.Context) ([]Database, error) {
	rows, err := c.query(ctx, "select oid, datname, coalesce((select oid from pg_catalog.pg_database"+
		" where datname = 'template0'), 0) from pg_catalog.pg_database order by oid")
	if err != nil {
		return nil, err
	}
	list := make([]Database, 0, len(rows))
	for _, r := range rows {
		d := Database{OID: uint32(r.int()), Name: r.text(), LastSystemOID: uint32(r.int())}
		if r.err != nil {
			return nil, r.err
		}
		list = append(list, d)
	}
	return list, nil
}

// Tablespace is a tablespace of the cluster, pg_default and pg_global included.
type Tablespace struct {
	Name string
	OID  uint32
}

// Tablespaces gives all tablespaces in the order of their oids.
func (c *Conn) Tablespaces(ctx context.Context) ([]Tablespace, error) {
	rows, err := c.query(ctx, "select oid, spcname from pg_catalog.pg_tablespace order by oid")
	if err != nil {
		return nil, err
	}
	list := make([]Tablespace, 0, len(rows))
	for _, r := range rows {
		s := Tablespace{OID: uint32(r.int()), Name: r.text()}
		if r.err != nil {
			return nil, r.err
		}
		list = append(list, s)
	}
	return list, nil
}

const (
	createRestorePoint = "pg_create_restore_point(text)"
	switchWAL          = "pg_switch_wal()"
)

// CreateRestorePoint writes a named point into the WAL, which a restore can aim at,
// and gives its place.
func (c *Conn) CreateRestorePoint(ctx context.Context, name string) (postgres.LSN, error) {
	r, err := c.queryRow(ctx, "select pg_catalog.pg_create_restore_point("+quoteLiteral(name)+")", createRestorePoint)
	if err != nil {
		return 0, err
	}
	lsn := r.lsn()
	return lsn, r.err
}

// SwitchWAL ends the current WAL segment, so that it is archived now, and gives its
// name. A restore point is written first, named as pgBackRest's check names it: else
// a segment in which nothing was written would not be ended.
func (c *Conn) SwitchWAL(ctx context.Context) (segment string, err error) {
	if _, err := c.CreateRestorePoint(ctx, "pgBackRest Archive Check"); err != nil {
		return "", err
	}
	r, err := c.queryRow(ctx, "select pg_catalog.pg_walfile_name(pg_catalog.pg_switch_wal())", switchWAL)
	if err != nil {
		return "", err
	}
	segment = r.text()
	return segment, r.err
}

// Alive asks the server for a sign of life. It is an error when the connection is
// lost, or when the cluster has been promoted, or has gone into recovery, since
// Connect. Asked every half minute or so while files are copied it ends a
// backup that cannot be stopped any more. A deadline of ctx says how long a server
// may take; the connection is lost when it passes.
func (c *Conn) Alive(ctx context.Context) error {
	r, err := c.queryRow(ctx, "select pg_catalog.pg_is_in_recovery()")
	if err != nil {
		return err
	}
	inRecovery := r.bool()
	if r.err != nil {
		return r.err
	}
	return c.sameRole(inRecovery)
}
