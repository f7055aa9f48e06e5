// Package remote is a repository seen from another host: the services that the
// repository host offers over package protocol, and the clients that take them for a
// repository that is near.
//
// A session has one of three roles. What it may call is what the service of the role holds;
// all else is an Access error.
//
//	call         archive   restore   admin
//	archive-id   yes       -         -        the current archive id, version and system id
//	archive-ids  yes       -         -        the archive ids of a cluster
//	wal-find     yes       -         -        the copies of a WAL file
//	wal-get      yes       -         -        a copy found, as it is stored
//	wal-put      yes       -         -        a WAL file, verified before it appears
//	describe     -         yes       yes      repository path, features of the store
//	open         -         yes       yes      an object or a part of it, an info file decrypted
//	stat         -         yes       yes      what is under a name
//	list         -         yes       yes      what is below a directory
//	put          -         -         yes      store an object, an info file encrypted
//	remove       -         -         yes      objects, empty directories
//	remove-all   -         -         yes      a directory with all below it
//	make-dir     -         -         yes      a directory
//	link         -         -         yes      a further name for an object
//	sync         -         -         yes      make durable
//
// Everything in an encrypted repository is encrypted and decrypted by the client, but for the
// info files: the passphrase of the configuration stays where that is. In the info files the client
// finds those of its stanza; archive-id and archive-ids tell the one of WAL.
//
// An archive session is about one stanza, and names WAL files: where they lie is the server's
// business. The others name objects below archive/STANZA and backup/STANZA of the stanzas granted
// to them, and see nothing else. No call makes a symbolic link, and a hard link only of
// an object, so that no client can plant what leads another astray; the storage sees to it that
// links which are there do not lead out of the repository.
//
// Arguments and results are JSON objects. A listing is a stream of them, one a line. A
// service keeps nothing from one call to the next.
package remote

import (
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/storage"
)

// The roles of a session with a repository host.
const (
	RoleArchive = "archive" // find, get and add WAL of a stanza
	RoleRestore = "restore" // read what is in a stanza
	RoleAdmin   = "admin"   // read and change it
)

// valid says whether a name is one of an object, as storage.Storage has it.
func valid(name string) error {
	if name != "." && fs.ValidPath(name) && !strings.ContainsRune(name, 0) {
		return nil
	}
	return errs.New(errs.ParamInvalid, "'%s' is not a name of an object in a repository: %w", name, fs.ErrInvalid)
}

// object is a storage.Object on the wire.
type object struct {
	Name    string    `json:"name,omitempty"` // below what was listed; empty in the answer to stat
	Type    string    `json:"type"`
	Size    int64     `json:"size,omitempty"`
	ModTime *[2]int64 `json:"mtime,omitempty"` // seconds since 1970 and nanoseconds
	Target  string    `json:"target,omitempty"`
	Version string    `json:"version,omitempty"`
}

var types = words[storage.Type]{storage.File: "file", storage.Dir: "dir", storage.Link: "link", storage.Special: "special"}

func pack(o storage.Object) object {
	w := object{Name: o.Name, Type: types[o.Type], Size: o.Size, Target: o.Target, Version: o.Version}
	if !o.ModTime.IsZero() {
		w.ModTime = &[2]int64{o.ModTime.Unix(), int64(o.ModTime.Nanosecond())}
	}
	return w
}

func (w object) unpack(name string) (storage.Object, error) {
	o := storage.Object{Name: name, Size: w.Size, Target: w.Target, Version: w.Version}
	if w.ModTime != nil {
		o.ModTime = time.Unix(w.ModTime[0], w.ModTime[1])
	}
	var err error
	o.Type, err = types.value(w.Type)
	return o, err
}

// until is what is sent until the context of its call has ended: what was cancelled must not
// look complete to the other side.
type until struct {
	ended func() error
	src   io.Reader
}

func (u until) Read(p []byte) (int, error) {
	n, err := u.src.Read(p)
	if ended := u.ended(); ended != nil {
		return 0, ended
	}
	return n, err
}

var writes = words[storage.Write]{storage.Atomic: "atomic", storage.Staged: "staged", storage.Exclusive: "exclusive"}

// words are the values of a type as they are on the wire.
type words[T comparable] map[T]string

func (w words[T]) value(word string) (T, error) {
	for v, s := range w {
		if s == word {
			return v, nil
		}
	}
	var none T
	return none, errs.New(errs.Protocol, "'%s' is not known", word)
}

// Arguments and results of the calls about objects.
type (
	openArgs struct {
		Name    string `json:"name"`
		Offset  int64  `json:"offset,omitempty"`
		Length  int64  `json:"length,omitempty"` // 0: to the end
		Version string `json:"version,omitempty"`
	}
	listArgs struct {
		Prefix    string   `json:"prefix"`
		Recurse   bool     `json:"recurse,omitempty"`
		Only      []string `json:"only,omitempty"`
		NamesOnly bool     `json:"names_only,omitempty"`
		// Unfinished is of temporary names.
		Unfinished bool      `json:"unfinished,omitempty"`
		At         time.Time `json:"at,omitzero"`
	}
	putArgs struct {
		Name string `json:"name"`
		How  string `json:"how"`
	}
	nameArgs struct {
		Name string `json:"name"`
	}
	namesArgs struct {
		Names []string `json:"names"`
	}
	linkArgs struct {
		Old string `json:"old"`
		New string `json:"new"`
	}
	description struct {
		Path     string `json:"path"` // of the repository
		Cipher   bool   `json:"cipher,omitempty"`
		Dirs     bool   `json:"dirs,omitempty"`
		Links    bool   `json:"links,omitempty"`
		Versions bool   `json:"versions,omitempty"`
	}
)
