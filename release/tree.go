package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// epoch is the time of all that is shipped: the first that a zip can say.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// Who owns what the services write; all else is root's.
const nonroot = 65532

// entry is one file or folder of a tree.
type entry struct {
	path   string // slash-separated, relative to the top
	mode   fs.FileMode
	owner  int    // of user and group
	data   []byte // of a file
	source string // where the bytes of a file are, instead of data
}

func file(path string, mode fs.FileMode, data []byte) entry {
	return entry{path: path, mode: mode, data: data}
}

func copied(path string, mode fs.FileMode, source string) entry {
	return entry{path: path, mode: mode, source: source}
}

func folder(path string, mode fs.FileMode, owner int) entry {
	return entry{path: path, mode: mode | fs.ModeDir, owner: owner}
}

func (e entry) open() (io.ReadCloser, int64, error) {
	if e.source == "" {
		return io.NopCloser(bytes.NewReader(e.data)), int64(len(e.data)), nil
	}
	f, err := os.Open(e.source)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", e.source)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// tree is a set of entries, in order of path and with every folder that is
// needed.
type tree []entry

// newTree adds the folders that the entries lie in.
func newTree(entries ...entry) (tree, error) {
	known := map[string]bool{".": true}
	for _, e := range entries {
		if known[e.path] || !fs.ValidPath(e.path) {
			return nil, fmt.Errorf("%q is in the tree twice, or is no path", e.path)
		}
		known[e.path] = true
	}
	t := slices.Clone(entries)
	for _, e := range entries {
		for dir := path.Dir(e.path); !known[dir]; dir = path.Dir(dir) {
			known[dir] = true
			t = append(t, folder(dir, 0o755, 0))
		}
	}
	slices.SortFunc(t, func(a, b entry) int {
		return slices.Compare(strings.Split(a.path, "/"), strings.Split(b.path, "/"))
	})
	return t, nil
}

// size is that of all files, of those alone whose path begins with one of under
// if there is any.
func (t tree) size(under ...string) (int64, error) {
	var sum int64
	for _, e := range t {
		if e.mode.IsDir() || len(under) > 0 && !slices.ContainsFunc(under, func(u string) bool { return strings.HasPrefix(e.path, u) }) {
			continue
		}
		f, size, err := e.open()
		if err != nil {
			return 0, err
		}
		f.Close()
		sum += size
	}
	return sum, nil
}

// tar writes the tree as a layer of an image: the same tree is the same bytes.
func (t tree) tar(to io.Writer) error {
	w := tar.NewWriter(to)
	for _, e := range t {
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: e.path, Mode: int64(e.mode.Perm()), Uid: e.owner, Gid: e.owner, ModTime: epoch, Format: tar.FormatUSTAR,
		}
		if e.mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		if e.mode.IsDir() {
			h.Typeflag, h.Name = tar.TypeDir, e.path+"/"
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			continue
		}
		f, size, err := e.open()
		if err != nil {
			return err
		}
		h.Size = size
		if err = w.WriteHeader(h); err == nil {
			_, err = io.Copy(w, f)
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", e.path, err)
		}
	}
	return w.Close()
}

// digest is the sha256 of the tree as a layer, by which two trees are compared.
func (t tree) digest() (string, error) {
	sum := sha256.New()
	if err := t.tar(sum); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// write makes the tree anew as the folder dir. Only root can give files away:
// without that everything is the caller's.
func (t tree) write(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as in an image
		return err
	}
	for _, e := range t {
		if err := e.write(filepath.Join(dir, filepath.FromSlash(e.path))); err != nil {
			return err
		}
	}
	// Backwards, since a file changes the time of its folder.
	for _, e := range slices.Backward(t) {
		if err := os.Chtimes(filepath.Join(dir, filepath.FromSlash(e.path)), epoch, epoch); err != nil {
			return err
		}
	}
	return os.Chtimes(dir, epoch, epoch)
}

func (e entry) write(at string) error {
	if e.mode.IsDir() {
		if err := os.Mkdir(at, 0o700); err != nil {
			return err
		}
	} else if err := e.writeFile(at); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := os.Lchown(at, e.owner, e.owner); err != nil {
			return err
		}
	}
	return os.Chmod(at, e.mode.Perm()|e.mode&fs.ModeSticky) // behind the change of owner, and whatever the umask is
}

func (e entry) writeFile(at string) error {
	from, _, err := e.open()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}
