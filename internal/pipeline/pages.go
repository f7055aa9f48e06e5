package pipeline

import (
	"errors"
	"io"
	"io/fs"

	"github.com/pgx-backup/pgx/internal/postgres"
)

// PageSpec says how the pages of a file are checked (section 9 of the repository format).
type PageSpec struct {
	PageSize    int    // bytes, of the cluster
	FirstBlock  uint32 // the number of the file's first page in its relation
	HeaderCheck bool   // an unused page is known by its header, see postgres.CheckPage

	// Reread reads the page at an offset of the file again, into page. A page that fails its check and has
	// changed since is one PostgreSQL is writing, which WAL replay repairs. The same goes
	// when the page is gone: io.EOF, io.ErrUnexpectedEOF or fs.ErrNotExist. Another error ends
	// the pass. With nil a failed page is not read again.
	Reread func(offset int64, page []byte) error
}

// PageResult tells what the page check found.
type PageResult struct {
	// Valid is checksum-page of the manifest: every page is sound and the last one whole.
	Valid bool
	// Aligned tells whether the size is a multiple of the page size.
	Aligned bool
	// Errors are the pages that failed, numbered in the relation, ascending, with no two
	// ranges touching. There are none if the file is not aligned, as pgBackRest records it.
	Errors []PageRange
}

// PageRange is a run of pages, both ends included.
type PageRange struct{ First, Last uint32 }

// pageCheck checks the pages of one file.
type pageCheck struct {
	spec       PageSpec
	next       uint32 // the number of the next page
	misaligned bool
	errors     []PageRange
	again      []byte
}

// check looks at the pages of chunk, which begins at offset of the file. Only the last chunk
// may hold part of a page, which is not checked: such a file is not aligned, and
// pgBackRest, that gives up on the last buffer when the part is below 512 bytes, then
// drops all errors.
func (c *pageCheck) check(chunk []byte, offset int64) error {
	size := c.spec.PageSize
	for ; len(chunk) >= size; chunk = chunk[size:] {
		if !postgres.CheckPage(chunk[:size], c.next, c.spec.HeaderCheck) {
			bad, err := c.stillThere(chunk[:size], offset)
			if err != nil {
				return err
			}
			if bad {
				c.record(c.next)
			}
		}
		c.next++
		offset += int64(size)
	}
	c.misaligned = c.misaligned || len(chunk) > 0
	return nil
}

// stillThere reads a page that failed again and tells whether it is the same. There is
// no further check if not, or a busy page could fail for ever.
func (c *pageCheck) stillThere(page []byte, offset int64) (bool, error) {
	if c.spec.Reread == nil {
		return true, nil
	}
	if c.again == nil {
		c.again = make([]byte, c.spec.PageSize)
	}
	switch err := c.spec.Reread(offset, c.again); {
	case err == nil:
		return string(c.again) == string(page), nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, fs.ErrNotExist):
		return false, nil
	default:
		return false, err
	}
}

func (c *pageCheck) record(block uint32) {
	if n := len(c.errors); n > 0 && c.errors[n-1].Last+1 == block {
		c.errors[n-1].Last = block
		return
	}
	c.errors = append(c.errors, PageRange{block, block})
}

func (c *pageCheck) result() *PageResult {
	if c.misaligned {
		return &PageResult{}
	}
	return &PageResult{Valid: len(c.errors) == 0, Aligned: true, Errors: c.errors}
}
