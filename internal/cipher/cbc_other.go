//go:build !amd64 || purego

package cipher

// native gives nil: only amd64 has assembly, and the tag purego asks for none.
func native(*[32]byte) cbc { return nil }
