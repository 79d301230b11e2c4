package main

import (
	"archive/zip"
	"compress/flate"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxPackage is the largest package of the function.
const maxPackage = 15 << 20

// makeLambda writes the package of the refresh function, for each architecture.
func makeLambda(ctx context.Context, s settings, stdout io.Writer) error {
	b := newBuilder(s)
	m, err := makeManifest(ctx, s, b, filepath.Join(s.out, ".manifest"))
	if err != nil {
		return err
	}
	for _, arch := range s.arches {
		paths, err := b.build(ctx, target{"linux", arch}, refreshProgram)
		if err != nil {
			return err
		}
		t, err := newTree(append(m.files("."), copied("bootstrap", 0o755, paths[refreshProgram.name]))...)
		if err != nil {
			return err
		}
		at := filepath.Join(s.out, "tagstore-refresh-"+arch+".zip")
		if err := writeNew(at, t.zip); err != nil {
			return err
		}
		// As it is unpacked, for who packs it in another way.
		if err := t.write(filepath.Join(s.out, arch)); err != nil {
			return err
		}
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		sum, err := sumOf(at)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s  %s  %s\n", sum, megabytes(info.Size()), at)
		if info.Size() > maxPackage {
			return fmt.Errorf("%s is larger than %s", at, megabytes(maxPackage))
		}
	}
	tellKey(m, s, stdout)
	return nil
}

// zip writes the files of a tree, which are all at its top: the same tree is the
// same bytes.
func (t tree) zip(to io.Writer) error {
	w := zip.NewWriter(to)
	w.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(out, flate.BestCompression)
	})
	for _, e := range t {
		h := &zip.FileHeader{Name: e.path, Method: zip.Deflate, Modified: epoch}
		h.SetMode(e.mode)
		part, err := w.CreateHeader(h)
		if err != nil {
			return err
		}
		f, _, err := e.open()
		if err != nil {
			return err
		}
		_, err = io.Copy(part, f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", e.path, err)
		}
	}
	return w.Close()
}

// writeNew writes a file in place of what there was, in one step.
func writeNew(at string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(at), ".new-*")
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), at)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error is the one to report
	}
	return err
}
