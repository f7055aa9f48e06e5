package agent

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"io"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
)

// callReadFiles reads the files of a Bundle. The client's data is what it asks for: of each file a
// record, which is a varint of its length and JSON. The data it is given is what is stored, in chunks, each
// behind a varint of its length; and between chunks, behind a 0, a record for each file that
// is done. The chunks before it, since the record before, are that file's.
const callReadFiles = "read-files"

// maxRecord bounds what is told of a file: one in ruins has as many ranges of bad pages as half of its pages. maxTold bounds what
// is told of all files of a bundle: it is enough for 190 GB in ruins. Unpacked it has three times as much.
// maxRecords bounds what is asked for at once, of one file or of those of a bundle: with a file that is stored in blocks comes
// the map of the blocks before, see wireBlocks.
const (
	maxRecord  = 16 << 20
	maxTold    = 32 << 20
	maxRecords = 64 << 20
)

// readFilesArgs is a file that is asked for.
type readFilesArgs struct {
	// Same says that how it is stored and checked is as with the file before, and not told again.
	Same bool `json:"same,omitempty"`
	readFileArgs
}

// like says whether two files are stored and checked in the same way.
func (a readFileArgs) like(b readFileArgs) bool {
	return a.Compress == b.Compress && a.Level == b.Level && a.Cipher == b.Cipher && a.Raw == b.Raw &&
		(a.Pages == nil) == (b.Pages == nil) && (a.Pages == nil || *a.Pages == *b.Pages)
}

// as makes a stored and checked like b.
func (a *readFileArgs) as(b readFileArgs) {
	a.Compress, a.Level, a.Cipher, a.Raw, a.Pages = b.Compress, b.Level, b.Cipher, b.Raw, b.Pages
}

// readFilesResult is a FileResult. Its offset follows from those before it.
type readFilesResult struct {
	Vanished bool `json:"vanished,omitempty"`
	readFileResult
}

func packFileResult(r FileResult) readFilesResult {
	switch r.Fate {
	case Unchanged:
		return readFilesResult{readFileResult: readFileResult{Unchanged: true}}
	case Vanished:
		return readFilesResult{Vanished: true}
	}
	return readFilesResult{readFileResult: packResult(r.Result)}
}

// fileResult gives what an agent says of a file that begins at offset and of which received bytes have
// come. Only one of which something is known can be unchanged, and one of which nothing came is that, or empty, or has vanished.
func (w readFilesResult) fileResult(offset, received int64, a asked) (FileResult, error) {
	var r FileResult
	var err error
	switch {
	case (w.Unchanged || w.Vanished) && received > 0, w.Unchanged && w.Vanished, w.Unchanged && !a.known,
		!w.Unchanged && !w.Vanished && received == 0 && w.Size > 0:
		err = errs.New(errs.Protocol, "what is said of a file cannot be true")
	case w.Unchanged:
		r.Fate = Unchanged
	case w.Vanished:
		r.Fate = Vanished
	default:
		r.Offset = offset
		r.Result, err = w.result(received, a)
	}
	return r, err
}

// appendRecord appends v as a record.
func appendRecord(to []byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return to, errs.New(errs.Assert, "marshal a record: %w", err)
	}
	return append(binary.AppendUvarint(to, uint64(len(b))), b...), nil
}

// readRecord reads a record of at most limit bytes into v, and gives its size. At the end of the data it
// is io.EOF.
func readRecord(in *bufio.Reader, limit int, v any) (int, error) {
	size, err := readLength(in, uint64(limit))
	if err != nil {
		return 0, err
	}
	b, err := io.ReadAll(io.LimitReader(in, int64(size))) // not allocated before it is there
	if err != nil {
		return 0, err
	}
	if uint64(len(b)) < size {
		return 0, cutRecord(io.EOF)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return 0, errs.New(errs.Protocol, "a record cannot be read: %w", err)
	}
	return len(b), nil
}

// readLength reads a length of at most limit. At the end of the data it is io.EOF.
func readLength(in *bufio.Reader, limit uint64) (length uint64, err error) {
	for shift := 0; ; shift += 7 {
		b, err := in.ReadByte()
		switch {
		case err == io.EOF && shift == 0:
			return 0, err
		case err != nil:
			return 0, cutRecord(err)
		case shift > 56:
			return 0, errs.New(errs.Protocol, "a length has too many digits")
		}
		length |= uint64(b&0x7f) << shift
		switch {
		case length > limit:
			return 0, errs.New(errs.Protocol, "%d bytes at once are too many", length)
		case b < 0x80:
			return length, nil
		}
	}
}

// cutRecord explains that data ends in the middle of what should come. Other errors stay.
func cutRecord(err error) error {
	if err == io.EOF {
		return errs.New(errs.Protocol, "what was sent is cut")
	}
	return err
}

// fileRecords gives the records of files as they are read.
type fileRecords struct {
	files  []pgdata.Read
	before readFileArgs
	buf    []byte
	rest   []byte // of buf
}

func (f *fileRecords) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		if len(f.files) == 0 {
			return 0, io.EOF
		}
		a := readFilesArgs{readFileArgs: packRead(f.files[0])}
		f.files = f.files[1:]
		before := f.before
		f.before = a.readFileArgs
		if a.Same = a.like(before); a.Same {
			a.as(readFileArgs{})
		}
		var err error
		if f.buf, err = appendRecord(f.buf[:0], a); err != nil {
			return 0, err
		}
		f.rest = f.buf
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// readFileRecords reads what fileRecords gives.
func readFileRecords(r io.Reader) ([]pgdata.Read, error) {
	in := bufio.NewReader(r)
	var files []pgdata.Read
	var before readFileArgs
	for left := maxRecords; ; {
		var a readFilesArgs
		size, err := readRecord(in, left, &a)
		switch left -= size; {
		case err == io.EOF:
			return files, nil
		case err != nil:
			return nil, err
		case len(files) == MaxBundle:
			return nil, tooMany(len(files) + 1)
		}
		if a.Same {
			a.as(before)
		}
		before = a.readFileArgs
		read, err := a.read()
		if err != nil {
			return nil, err
		}
		files = append(files, read)
	}
}
