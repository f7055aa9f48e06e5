package agent

import (
	"bufio"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
)

// The calls of RoleRestoreTarget.
const (
	callCheck      = "check"
	callInspect    = "inspect"
	callBegin      = "begin"
	callMatchFiles = "match-files"
	callPatchFile  = "patch-file"
	callPatchNext  = "patch-next"
	callPutFile    = "put-file"
	callPutFiles   = "put-files"
	callReadSmall  = "read-small"
	callWriteSmall = "write-small"
	callFinish     = "finish"
)

type (
	checkResult struct {
		Recognised bool `json:"recognised"`
	}
	// matchFilesArgs come with a list of wireFile, and put-files takes one in which the content of
	// each file is behind its line.
	matchFilesArgs struct {
		Times  bool     `json:"times"`
		Before wireTime `json:"before"`
	}
	matchFilesResult struct {
		Matches []bool `json:"matches"` // in the order of the list
	}
	// patchFileArgs come with the text of the block map.
	patchFileArgs struct {
		File      wireFile `json:"file"`
		BlockSize int64    `json:"block_size"`
		SumSize   int      `json:"sum_size"`
	}
	// patchResult is what patch-file and patch-next answer.
	patchResult struct {
		Found  bool  `json:"found"`            // a file to be patched
		Needed []int `json:"needed,omitempty"` // whose content patch-next takes; without any the patch is at its end
	}
	smallArgs struct {
		Name  string `json:"name"`
		Bytes bool   `json:"bytes,omitempty"` // see pack
	}
	finishArgs struct {
		Online bool `json:"online"`
	}
)

func packSmall(name string) smallArgs {
	a := smallArgs{Name: name}
	a.Bytes = pack(&a.Name)
	return a
}

// wireTime is a time.Time of any year.
type wireTime struct {
	Seconds     int64 `json:"s"` // since 1970
	Nanoseconds int64 `json:"ns,omitempty"`
}

func packTime(t time.Time) wireTime { return wireTime{t.Unix(), int64(t.Nanosecond())} }

func (w wireTime) time() time.Time { return time.Unix(w.Seconds, w.Nanoseconds) }

// wireFile is a pgdata.TargetFile.
type wireFile struct {
	Name    string   `json:"name"`
	User    string   `json:"user,omitempty"`
	Group   string   `json:"group,omitempty"`
	Mode    uint32   `json:"mode"`
	Size    int64    `json:"size"`
	ModTime wireTime `json:"mtime"`
	SHA1    []byte   `json:"sha1,omitempty"`
	Zero    bool     `json:"zero,omitempty"`
	Bytes   bool     `json:"bytes,omitempty"` // see pack
}

func packFile(f pgdata.TargetFile) wireFile {
	w := wireFile{
		Name: f.Name, User: f.User, Group: f.Group, Mode: uint32(f.Mode.Perm()), Size: f.Size, ModTime: packTime(f.ModTime), Zero: f.Zero,
	}
	if f.Size > 0 && !f.Zero {
		w.SHA1 = f.SHA1[:]
	}
	w.Bytes = pack(&w.Name, &w.User, &w.Group)
	return w
}

func (w wireFile) file() (pgdata.TargetFile, error) {
	if err := unpack(w.Bytes, &w.Name, &w.User, &w.Group); err != nil {
		return pgdata.TargetFile{}, err
	}
	if err := checkMode(w.Name, w.Mode); err != nil {
		return pgdata.TargetFile{}, err
	}
	f := pgdata.TargetFile{
		Name: w.Name, User: w.User, Group: w.Group, Mode: fs.FileMode(w.Mode), Size: w.Size, ModTime: w.ModTime.time(), Zero: w.Zero,
	}
	if w.Size < 0 {
		return f, errs.New(errs.ParamInvalid, "file '%s' has the size %d", w.Name, w.Size)
	}
	if w.Size > 0 && !w.Zero {
		if len(w.SHA1) != 20 {
			return f, errs.New(errs.ParamInvalid, "file '%s' has no SHA-1 of 20 bytes", w.Name)
		}
		f.SHA1 = [20]byte(w.SHA1)
	}
	return f, nil
}

func checkMode(name string, mode uint32) error {
	if mode > 0o777 {
		return errs.New(errs.ParamInvalid, "mode %o of '%s' is more than permission bits", mode, name)
	}
	return nil
}

// layoutLine is a line of a pgdata.Layout on its way, a list in which each line has one
// field. The first has Options, the last, behind which a marker may follow, End.
type layoutLine struct {
	Options *layoutOptions `json:"options,omitempty"`
	User    *string        `json:"user,omitempty"`
	Group   *string        `json:"group,omitempty"`
	Keep    *string        `json:"keep,omitempty"`
	Root    *wireRoot      `json:"root,omitempty"`
	Dir     *wireNode      `json:"dir,omitempty"`
	Link    *wireNode      `json:"link,omitempty"`
	File    *wireNode      `json:"file,omitempty"`
	End     bool           `json:"end,omitempty"`
	Bytes   bool           `json:"bytes,omitempty"` // see pack
}

type layoutOptions struct {
	Clean bool `json:"clean"`
}

type wireRoot struct {
	Name    string `json:"name"`
	Path    string `json:"path"`
	Version string `json:"version,omitempty"`
	File    string `json:"file,omitempty"`
}

// wireNode is what a layout says of a directory, a link or a file.
type wireNode struct {
	Name        string `json:"name"`
	User        string `json:"user,omitempty"`
	Group       string `json:"group,omitempty"`
	Mode        uint32 `json:"mode,omitempty"`        // not of a link
	Destination string `json:"destination,omitempty"` // of a link
}

// names gives all in a line that may be bytes.
func (l *layoutLine) names() []*string {
	var all []*string
	for _, s := range []*string{l.User, l.Group, l.Keep} {
		if s != nil {
			all = append(all, s)
		}
	}
	if r := l.Root; r != nil {
		all = append(all, &r.Name, &r.Path, &r.Version, &r.File)
	}
	for _, n := range []*wireNode{l.Dir, l.Link, l.File} {
		if n != nil {
			all = append(all, &n.Name, &n.User, &n.Group, &n.Destination)
		}
	}
	return all
}

// writeLayout sends a layout; its files only if Begin will ask for them.
func writeLayout(w io.Writer, l pgdata.Layout, files bool) error {
	out := newList(w)
	var err error
	add := func(line layoutLine) {
		if err == nil {
			line.Bytes = pack(line.names()...)
			err = out.add(line)
		}
	}
	add(layoutLine{Options: &layoutOptions{Clean: l.Clean}})
	for _, s := range l.Users {
		add(layoutLine{User: &s})
	}
	for _, s := range l.Groups {
		add(layoutLine{Group: &s})
	}
	for _, s := range l.Keep {
		add(layoutLine{Keep: &s})
	}
	for _, r := range l.Roots {
		add(layoutLine{Root: &wireRoot{r.Name, r.Path, r.Version, r.File}})
	}
	for _, d := range l.Dirs {
		add(layoutLine{Dir: &wireNode{Name: d.Name, User: d.User, Group: d.Group, Mode: uint32(d.Mode.Perm())}})
	}
	for _, k := range l.Links {
		add(layoutLine{Link: &wireNode{Name: k.Name, User: k.User, Group: k.Group, Destination: k.Destination}})
	}
	if files && l.Clean {
		if l.Files == nil {
			return errs.New(errs.Assert, "a layout that is cleaned on another host needs its files")
		}
		for f := range l.Files {
			if err != nil {
				break
			}
			add(layoutLine{File: &wireNode{Name: f.Name, User: f.User, Group: f.Group, Mode: uint32(f.Mode.Perm())}})
		}
	}
	add(layoutLine{End: true})
	return err
}

// readLayout reads what writeLayout sent, and not what is behind it.
func readLayout(in *bufio.Reader) (pgdata.Layout, error) {
	var l pgdata.Layout
	files := &fileTable{}
	l.File = files.find
	for first := true; ; first = false {
		var line layoutLine
		err := readValue(in, &line)
		if err == io.EOF {
			err = errs.New(errs.Protocol, "a layout has no end")
		}
		if err == nil {
			err = unpack(line.Bytes, line.names()...)
		}
		if err != nil {
			return l, err
		}
		switch {
		case first != (line.Options != nil):
			return l, errs.New(errs.Protocol, "a layout begins with its options and has them once")
		case line.Options != nil:
			l.Clean = line.Options.Clean
		case line.User != nil:
			l.Users = append(l.Users, *line.User)
		case line.Group != nil:
			l.Groups = append(l.Groups, *line.Group)
		case line.Keep != nil:
			l.Keep = append(l.Keep, *line.Keep)
		case line.Root != nil:
			l.Roots = append(l.Roots, pgdata.TargetRoot(*line.Root))
		case line.Dir != nil:
			d := *line.Dir
			if n := len(l.Dirs); n > 0 && l.Dirs[n-1].Name >= d.Name {
				return l, outOfOrder(d.Name)
			}
			err = checkMode(d.Name, d.Mode)
			l.Dirs = append(l.Dirs, pgdata.TargetDir{Name: d.Name, User: d.User, Group: d.Group, Mode: fs.FileMode(d.Mode)})
		case line.Link != nil:
			k := *line.Link
			l.Links = append(l.Links, pgdata.TargetLink{Name: k.Name, Destination: k.Destination, User: k.User, Group: k.Group})
		case line.File != nil:
			err = files.add(*line.File)
		case line.End:
			return l, nil
		default:
			return l, errs.New(errs.Protocol, "a line of a layout says nothing")
		}
		if err != nil {
			return l, err
		}
	}
}

func outOfOrder(name string) error {
	return errs.New(errs.Protocol, "'%s' is out of order in a layout", name)
}

// fileTable keeps name, owner and mode of a million files in few bytes: all names one after
// another, and records of fixed size.
type fileTable struct {
	names  []byte
	files  []tableFile
	owners []string // few
}

type tableFile struct {
	end         uint32 // of its name
	user, group uint16 // in owners
	mode        uint16
}

// name gives bytes: made into a string only to be compared, they are not copied.
func (t *fileTable) name(i int) []byte {
	start := uint32(0)
	if i > 0 {
		start = t.files[i-1].end
	}
	return t.names[start:t.files[i].end]
}

// add takes files in byte order of their names.
func (t *fileTable) add(n wireNode) error {
	if err := checkMode(n.Name, n.Mode); err != nil {
		return err
	}
	if last := len(t.files) - 1; last >= 0 && string(t.name(last)) >= n.Name {
		return outOfOrder(n.Name)
	}
	user, err := t.owner(n.User)
	if err != nil {
		return err
	}
	group, err := t.owner(n.Group)
	if err != nil {
		return err
	}
	if uint64(len(t.names)+len(n.Name)) >= 1<<32 {
		return errs.New(errs.Protocol, "a layout has names of more than 4GB")
	}
	t.names = append(t.names, n.Name...)
	t.files = append(t.files, tableFile{uint32(len(t.names)), user, group, uint16(n.Mode)})
	return nil
}

func (t *fileTable) owner(name string) (uint16, error) {
	i := slices.Index(t.owners, name)
	if i < 0 {
		const limit = 1000
		if i = len(t.owners); i == limit {
			return 0, errs.New(errs.Protocol, "a layout has more than %d owners", limit)
		}
		t.owners = append(t.owners, strings.Clone(name))
	}
	return uint16(i), nil
}

func (t *fileTable) find(name string) (pgdata.TargetFile, bool) {
	low, high := 0, len(t.files)
	for low < high {
		if mid := int(uint(low+high) / 2); string(t.name(mid)) < name {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == len(t.files) || string(t.name(low)) != name {
		return pgdata.TargetFile{}, false
	}
	f := t.files[low]
	return pgdata.TargetFile{Name: name, User: t.owners[f.user], Group: t.owners[f.group], Mode: fs.FileMode(f.mode)}, true
}
