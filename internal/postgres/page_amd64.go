//go:build !purego

package postgres

import "golang.org/x/sys/cpu"

// foldPage is foldPortable with the instructions of AVX2 where the processor has them: they run
// eight lanes at once, for which Go's compiler has nothing.
func foldPage(page []byte) uint32 {
	if !cpu.X86.HasAVX2 || !ValidPageSize(len(page)) {
		return foldPortable(page)
	}
	return foldAVX2(&page[0], len(page))
}

// foldAVX2 is foldPortable for a page of size bytes, which are whole rows and one at least.
// It reads nothing else.
//
//go:noescape
func foldAVX2(page *byte, size int) uint32
