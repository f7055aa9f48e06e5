// Package report is the info command: what stanzas, backups and WAL the repositories
// hold, and in what state. Its JSON and text are pgBackRest's (src/command/info/info.c),
// because monitoring and people read them.
package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/pgx-backup/pgx/repo"
)

// The codes of a status.
const (
	StatusOK = iota
	StatusMissingStanzaPath
	StatusNoBackup
	StatusMissingStanzaData
	StatusMixed
	StatusMismatch
	StatusBackupMissing
	StatusOther = 99
)

var statusText = map[int]string{
	StatusOK:                "ok",
	StatusMissingStanzaPath: "missing stanza path",
	StatusNoBackup:          "no valid backups",
	StatusMissingStanzaData: "missing stanza data",
	StatusMixed:             "different across repos",
	StatusMismatch:          "database mismatch across repos",
	StatusBackupMissing:     "requested backup not found",
	StatusOther:             "other",
}

// Stanza is one stanza over all repositories asked. The fields of this and the types
// below are in the order of their JSON names, which is pgBackRest's order.
type Stanza struct {
	Archive []Archive `json:"archive,omitzero"`
	Backup  []Backup  `json:"backup,omitzero"`
	Cipher  string    `json:"cipher,omitempty"`
	DB      []DB      `json:"db,omitzero"`
	Hole    []Hole    `json:"hole,omitempty"` // pgx only
	Name    string    `json:"name"`
	Repo    []Repo    `json:"repo,omitzero"`
	Status  Status    `json:"status"`
	Warning []string  `json:"warning,omitempty"` // pgx only: what could not be looked at

	current identity
}

// identity tells clusters apart, over all repositories and history ids.
type identity struct {
	systemID uint64
	version  string
}

// Archive is the WAL of one archive id in one repository; Min and Max are segments.
type Archive struct {
	Database Key     `json:"database"`
	ID       string  `json:"id"`
	Max      *string `json:"max"`
	Min      *string `json:"min"`
}

// Key is a history id of one repository.
type Key struct {
	ID      int `json:"id"`
	RepoKey int `json:"repo-key"`
}

// Backup is one backup.
type Backup struct {
	Annotation  map[string]string `json:"annotation,omitempty"`
	Archive     Range             `json:"archive"`
	Backrest    Backrest          `json:"backrest"`
	Database    Key               `json:"database"`
	DatabaseRef *[]Database       `json:"database-ref,omitempty"` // with --set
	Error       *bool             `json:"error,omitempty"`
	ErrorList   []string          `json:"error-list,omitempty"`
	Info        Sizes             `json:"info"`
	Label       string            `json:"label"`
	Link        *[]Link           `json:"link,omitempty"` // with --set; null when there are none
	LSN         *Range            `json:"lsn,omitempty"`
	Prior       *string           `json:"prior"`
	Reference   []string          `json:"reference"`
	Restorable  *[]Range          `json:"restorable,omitempty"` // pgx only: when a hole is in the way
	Tablespace  *[]Tablespace     `json:"tablespace,omitempty"` // as Link
	Timestamp   Times             `json:"timestamp"`
	Type        string            `json:"type"`

	lacks *repo.Hole // the first hole
}

// Range is a range of WAL segments or LSNs, null for an offline backup.
type Range struct {
	Start *string `json:"start"`
	Stop  *string `json:"stop"`
}

// Backrest says what made a backup.
type Backrest struct {
	Format  int    `json:"format"`
	Version string `json:"version"`
}

// Database is a database of a backup.
type Database struct {
	Name string `json:"name"`
	OID  uint32 `json:"oid"`
}

// Sizes are bytes: of the cluster, of what was copied, and of both as stored.
type Sizes struct {
	Delta      int64     `json:"delta"`
	Repository RepoSizes `json:"repository"`
	Size       int64     `json:"size"`
}

// RepoSizes are bytes stored. A backup with block maps has them and no Size.
type RepoSizes struct {
	Delta    int64  `json:"delta"`
	DeltaMap *int64 `json:"delta-map,omitempty"`
	Size     *int64 `json:"size,omitempty"`
	SizeMap  *int64 `json:"size-map,omitempty"`
}

// Link is a symbolic link of the data directory.
type Link struct {
	Destination string `json:"destination"`
	Name        string `json:"name"`
}

// Tablespace is a tablespace of a backup.
type Tablespace struct {
	Destination string `json:"destination"`
	Name        string `json:"name"`
	OID         uint32 `json:"oid"`
}

// Times are seconds since 1970.
type Times struct {
	Start int64 `json:"start"`
	Stop  int64 `json:"stop"`
}

// DB is a row of the history of one repository.
type DB struct {
	ID       int    `json:"id"`
	RepoKey  int    `json:"repo-key"`
	SystemID uint64 `json:"system-id"`
	Version  string `json:"version"`
}

// Repo is the state of the stanza in one repository.
type Repo struct {
	Cipher string     `json:"cipher"`
	Key    int        `json:"key"`
	Status RepoStatus `json:"status"`
}

// RepoStatus is a code and its words, or the error when the code is StatusOther.
type RepoStatus struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// Status is the state of a stanza and what runs on it.
type Status struct {
	Code    int    `json:"code"`
	Lock    Locks  `json:"lock"`
	Message string `json:"message"`
}

// Locks are the locks of a stanza held on this host.
type Locks struct {
	Backup  BackupLock `json:"backup"`
	Restore Lock       `json:"restore"`
}

// Lock is a lock and, while it is known, how far its holder is, in bytes.
type Lock struct {
	Held bool   `json:"held"`
	Size *int64 `json:"size,omitempty"`
	Done *int64 `json:"size-cplt,omitempty"`
}

// BackupLock is the sum over the repositories that are being written.
type BackupLock struct {
	Held bool       `json:"held"`
	Repo []RepoLock `json:"repo,omitempty"`
	Size *int64     `json:"size,omitempty"`
	Done *int64     `json:"size-cplt,omitempty"`
}

// RepoLock is how far the backup to one repository is.
type RepoLock struct {
	Key  int   `json:"key"`
	Size int64 `json:"size"`
	Done int64 `json:"size-cplt"`
}

// JSON writes the stanzas as info does with --output=json: one line without a line feed.
func JSON(w io.Writer, all []Stanza) error {
	if all == nil {
		all = []Stanza{}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err := w.Write(bytes.TrimRight(b.Bytes(), "\n"))
	return errors.Join(err)
}
