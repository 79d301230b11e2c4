package dev

import (
	_ "embed"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tagstore/tagstore/core/config"
)

//go:embed tagstore.yaml
var defaultManifest []byte

const localPlugin = "tagstore-plugin-local"

// binaries are the programs that Run starts, where `make build` puts them.
type binaries struct{ config, order, plugin string }

// findBinaries looks beside the running tagctl.
func findBinaries(dir string) (binaries, error) {
	b := binaries{
		config: filepath.Join(dir, "tagstore-config"),
		order:  filepath.Join(dir, "tagstore-order"),
		plugin: filepath.Join(dir, "plugins", localPlugin),
	}
	for _, path := range []string{b.config, b.order, b.plugin} {
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return binaries{}, config.Errorf(config.FailedPrecondition, "%s is missing or can not be run", path).
				WithHint("build all binaries with 'make build', and start the tagctl that stands beside them")
		}
	}
	return b, nil
}

// layOut makes the folders and, where there is none, the manifest that serves
// everything by the local plugin. It returns the manifest's path.
func layOut(dir, plugin string) (string, error) {
	if err := os.MkdirAll(filepath.Join(dir, "plugins"), 0o700); err != nil {
		return "", unusable(dir, err)
	}
	if err := copyProgram(plugin, filepath.Join(dir, "plugins", localPlugin)); err != nil {
		return "", unusable(dir, err)
	}
	manifest := filepath.Join(dir, "tagstore.yaml")
	_, err := os.Stat(manifest)
	if errors.Is(err, fs.ErrNotExist) {
		err = writeFile(manifest, defaultManifest)
	}
	if err != nil {
		return "", unusable(dir, err)
	}
	return manifest, nil
}

// copyProgram copies a program unless the copy has its size and time. The old
// copy is replaced as a whole, since it may still be running.
func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	want, err := in.Stat()
	if err != nil {
		return err
	}
	if have, err := os.Stat(to); err == nil && have.Size() == want.Size() && have.ModTime().Equal(want.ModTime()) {
		return nil
	}
	out, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+"-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(0o700), out.Close())
	if err == nil {
		err = errors.Join(os.Chtimes(out.Name(), want.ModTime(), want.ModTime()), os.Rename(out.Name(), to))
	}
	if err != nil {
		_ = os.Remove(out.Name()) // the first error is the one to report
	}
	return err
}
