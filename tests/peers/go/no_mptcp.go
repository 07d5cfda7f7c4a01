//go:build !go1.21

package main

import (
	"fmt"
	"runtime"
)

// Multipath TCP came with Go 1.21.
func listen([]string) {
	fmt.Println("none", runtime.Version())
}
