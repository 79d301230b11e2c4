package dev

import (
	"path/filepath"
	"strings"
)

// commandPath returns how a shell in dir calls an executable: relative where
// it is below dir, so that the command can be read.
func commandPath(dir, executable string) string {
	rel, err := filepath.Rel(dir, executable)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return quote(executable)
	}
	if !strings.Contains(rel, "/") {
		rel = "./" + rel // else the shell would search PATH
	}
	return quote(rel)
}

// quote returns a word that every POSIX shell reads as s (XCU 2.2.2).
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@", r)
	}
	if s != "" && strings.TrimLeftFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
