//go:build !profile

package main

import "os"

// exit ends the program. All of it goes through here so that a program built with -tags profile
// can write a profile first.
func exit(code int) { os.Exit(code) }
