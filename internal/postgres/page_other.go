//go:build !amd64 || purego

package postgres

func foldPage(page []byte) uint32 { return foldPortable(page) }
