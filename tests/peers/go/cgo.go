package main

// Only where cgo is on: C code in the program moves Go's own.

// static int one(void) { return 1; }
import "C"

var _ = C.one()
