package app

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tagstore/tagstore/core/manifest"
)

// filePoll is how often the manifest's file is looked at.
const filePoll = 500 * time.Millisecond

// fileWatch tells when files have other content than before. It looks at them
// again and again rather than have the kernel tell: a file may be written in
// place, renamed over, or be behind a link to a folder that is exchanged, as
// Kubernetes does, on any kind of file system, and all of that looks the same
// from here. The zero value watches nothing.
type fileWatch struct {
	files   []watchedFile
	known   string // what they held when it was last acted upon
	pending string // what they hold since the last look
}

type watchedFile struct {
	path string
	stat string // when sum was taken
	sum  string
}

func watchFiles(paths ...string) *fileWatch {
	w := &fileWatch{}
	for _, p := range paths {
		w.files = append(w.files, watchedFile{path: p})
	}
	w.seen()
	return w
}

// seen takes what the files hold now for known.
func (w *fileWatch) seen() {
	w.known = w.look()
	w.pending = w.known
}

// changed reports that the files hold something else than what is known, the
// same twice in a row: what is still being written changes in between.
func (w *fileWatch) changed() bool {
	now := w.look()
	steady := now == w.pending
	if w.pending = now; now == w.known || !steady {
		return false
	}
	w.known = now
	return true
}

func (w *fileWatch) look() string {
	var all string
	for i := range w.files {
		all += w.files[i].look() + "\n"
	}
	return all
}

// look reads the file only where its metadata is not what it was.
func (f *watchedFile) look() string {
	info, err := os.Stat(f.path)
	if err != nil || !info.Mode().IsRegular() {
		f.stat, f.sum = "", "none"
		return f.sum
	}
	stat := fmt.Sprint(info.Size(), info.ModTime().UnixNano(), info.Sys())
	if stat == f.stat {
		return f.sum
	}
	file, err := os.Open(f.path)
	if err != nil {
		f.stat, f.sum = "", "none"
		return f.sum
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(file, manifest.MaxFile+1)); err != nil {
		f.stat, f.sum = "", "none"
		return f.sum
	}
	f.stat, f.sum = stat, fmt.Sprintf("%x", sum.Sum(nil))
	return f.sum
}
