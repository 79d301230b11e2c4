//go:build unix && !linux

package main

// outliveParent has nothing to do: there is no such signal.
func outliveParent() {}
