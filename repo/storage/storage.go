// Package storage says what a repository needs of the place it is kept in: a
// directory, and later an object store or another host.
package storage

import (
	"context"
	"io"
	"iter"
	"time"
)

// Storage keeps whole objects under slash-separated names relative to the
// repository path: no leading slash, no empty, "." or ".." element.
//
// A missing name is fs.ErrNotExist, a refused one fs.ErrPermission, both to be
// tested with errors.Is; every error names the object and carries a code of package
// errs. When the context ends nothing more is written, and the error is its.
//
// All methods may be called from many goroutines at once.
type Storage interface {
	// Put stores what src gives, to its end, under name and makes the directories
	// it needs. With Atomic the object appears under its name only when all of it is
	// durable, replacing what was there; after an error the name holds what it held or, if
	// only the last step towards durability or the answer was lost, all of the
	// new object, never a part. With Staged it may be seen in parts while it is written,
	// and after an error; it is durable only once Sync has returned. With Exclusive it is
	// as Atomic, but a name that exists is left as it is and the error is fs.ErrExist: of
	// several writers at once exactly one succeeds.
	// An error of src comes back with the object named.
	Put(ctx context.Context, name string, src io.Reader, how Write) error

	// Open reads an object or a part of it. The reader gives fewer bytes than
	// at.Length only where the object ends before.
	Open(ctx context.Context, name string, at Range) (io.ReadCloser, error)

	// Stat describes an object, directory or link; a link is not followed.
	Stat(ctx context.Context, name string) (Object, error)

	// List gives what is below the directory prefix ("" is the whole repository), in
	// no order promised. A directory that is not there, or is no directory, lists as empty.
	// Names of writes under way are not listed unless they are asked for. Links are listed, not followed, except
	// when prefix is one. An error comes last.
	List(ctx context.Context, prefix string, what Listing) iter.Seq2[Object, error]

	// Remove deletes objects, links and empty directories, many in one call where
	// the store can. A name that is not there is no error; a directory that is not
	// empty is one.
	Remove(ctx context.Context, names ...string) error

	// RemoveAll deletes everything below the directory name, and itself; links are
	// not followed. A name that is not there is no error.
	RemoveAll(ctx context.Context, name string) error

	// MakeDir makes a directory and those above it. A store without directories
	// does nothing.
	MakeDir(ctx context.Context, name string) error

	// Symlink makes name a link to target, which is kept as it is given, replacing
	// a link of that name, but nothing else. Link gives the object old the further name
	// new, fs.ErrExist if that is taken. Both make the directories they need and are
	// errors.ErrUnsupported where Features says so.
	Symlink(ctx context.Context, target, name string) error
	Link(ctx context.Context, old, new string) error

	// Sync is the durability barrier: what was Put as Staged, made by MakeDir, linked
	// or removed below the directory name ("" is the whole repository) survives a
	// crash of the machine once it returns. Where name is an object Sync makes that one
	// durable, also one that another process wrote; where nothing is there, that it is gone.
	Sync(ctx context.Context, name string) error

	// Path names an object as an operator would look for it, for messages.
	Path(name string) string

	Features() Features
}

// Locker is what a Storage is too if writers on it can keep one another out.
type Locker interface {
	// Lock waits until nobody else has the lock of the directory name. The lock ends with
	// unlock, or with the process.
	Lock(ctx context.Context, name string) (unlock func() error, err error)
}

// Gatherer is what a Storage is too if many objects become durable at less cost together than
// one by one.
type Gatherer interface {
	// Gather is Put with Staged. Before Sync, or Flush, has returned the content is not durable
	// either. An error may be about an object gathered before.
	Gather(ctx context.Context, name string, src io.Reader) error

	// Flush makes the content of all that was gathered durable, not yet the names. Once it has
	// failed for an object, Gather, Flush and Sync fail ever after.
	Flush(ctx context.Context) error
}

// Namer is what a Storage is too if an object can get its name when all of it has come.
type Namer interface {
	// PutNamed is Put with Atomic for an object whose name depends on its content: name gives it, once src has
	// come to its end. It is in the directory of about, which names the object until then.
	PutNamed(ctx context.Context, about string, src io.Reader, name func() string) error
}

// Write says how Put makes an object appear.
type Write int

// The ways to write. See Storage.Put.
const (
	Atomic Write = iota
	Staged
	Exclusive
)

// Range is a part of an object. The zero value is the whole object as it is now.
type Range struct {
	Offset int64
	Length int64 // 0: to the end

	// Version, where the store keeps old versions, chooses one as Object.Version
	// names it. Elsewhere it is errors.ErrUnsupported.
	Version string
}

// Type is what kind of thing a name stands for.
type Type int

// What a name can stand for.
const (
	File Type = iota
	Dir
	Link
	Special
)

// Object describes what is stored under a name.
type Object struct {
	Name    string // relative to the repository path
	Type    Type
	Size    int64
	ModTime time.Time
	Target  string // of a Link
	Version string // where the store keeps old versions
}

// Listing says what List shows.
type Listing struct {
	// Recurse shows everything below, else one level: an object's name
	// with what comes after the next slash is cut and shown once, as a Dir.
	Recurse bool

	// Only, when not empty, names the types wanted.
	Only []Type

	// NamesOnly asks for no more than names and types, which may be much cheaper.
	NamesOnly bool

	// Unfinished shows, instead of anything else, the temporary names of writes under way
	// or left by processes that were killed, where the store has such names. They can be
	// given to Remove.
	Unfinished bool

	// At, where the store keeps old versions, shows what was there at that time.
	At time.Time
}

// Features says what a store can do beyond objects.
type Features struct {
	Dirs     bool // directories exist by themselves and can be empty
	Symlinks bool
	Links    bool // hard links
	Versions bool
}
