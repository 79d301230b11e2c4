package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// released is the version of a release: a tag, and nothing behind it.
var released = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$`)

// behind is what git describe adds for commits behind a tag, and for changes
// that were not committed.
var behind = regexp.MustCompile(`-[0-9]+-g[0-9a-f]+(-dirty)?$|-dirty$`)

// makeArchives writes an archive for each target with a bill of materials, the
// sums of the plugins, and the checksums of all these files.
func makeArchives(ctx context.Context, s settings, stdout io.Writer) error {
	if len(s.targets) == 0 {
		return fmt.Errorf("there is no target: %w", errUsage)
	}
	if !s.snapshot && len(s.only) > 0 {
		return fmt.Errorf("a release has all programs: %w", errUsage)
	}
	if !s.snapshot && (!released.MatchString(s.version) || behind.MatchString(s.version)) {
		return fmt.Errorf("%s is no version of a release: check out its tag, without changes, or take -snapshot", s.version)
	}
	// Whatever is in there is going to be in the checksums.
	if err := os.RemoveAll(s.out); err != nil {
		return err
	}
	if err := os.MkdirAll(s.out, 0o755); err != nil { //nolint:gosec // what is shipped is for everybody
		return err
	}
	b := newBuilder(s)
	sums := map[string]map[target]string{} // by plugin
	for _, t := range s.targets {
		if err := makeArchive(ctx, s, b, t, sums); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(s.out, "plugins.yaml"), pluginSums(s, sums), 0o644); err != nil { //nolint:gosec // it is for everybody
		return err
	}
	return makeChecksums(s.out, stdout)
}

func makeArchive(ctx context.Context, s settings, b builder, t target, sums map[string]map[target]string) error {
	programs := s.programs(t)
	paths, err := b.build(ctx, t, programs...)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("tagstore_%s_%s", strings.TrimPrefix(s.version, "v"), t)
	var entries []entry
	for _, text := range []string{"LICENSE", "NOTICE", "README.md", "CHANGELOG.md"} {
		entries = append(entries, copied(path.Join(name, text), 0o644, filepath.Join(s.root, text)))
	}
	var binaries []string
	for _, p := range programs {
		at := path.Join(name, p.name)
		if slices.Contains(pluginPrograms(), p) { // as `make build` has it
			at = path.Join(name, "plugins", p.name)
			sum, err := sumOf(paths[p.name])
			if err != nil {
				return err
			}
			if sums[p.name] == nil {
				sums[p.name] = map[target]string{}
			}
			sums[p.name][t] = sum
		}
		entries = append(entries, copied(at, 0o755, paths[p.name]))
		binaries = append(binaries, paths[p.name])
	}
	files, err := newTree(entries...)
	if err != nil {
		return err
	}
	archive := filepath.Join(s.out, name+".tar.gz")
	if err := writeNew(archive, files.tarGz); err != nil {
		return err
	}
	sum, err := sumOf(archive)
	if err != nil {
		return err
	}
	bom, err := materials(subject{"application", name, s.version, "sha256:" + sum}, s.version, binaries)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.out, name+".cdx.json"), bom, 0o644) //nolint:gosec // it is for everybody
}

// programs are those of an archive.
func (s settings) programs(t target) []program {
	all := append([]program{tagctl, stackProgram, configProgram, orderProgram}, pluginPrograms()...)
	if t.os == "linux" { // which Lambda runs
		all = append(all, refreshProgram)
	}
	if len(s.only) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(p program) bool { return !slices.Contains(s.only, p.name) })
}

func (t tree) tarGz(to io.Writer) error {
	w := gzip.NewWriter(to)
	return errors.Join(t.tar(w), w.Close())
}

// pluginSums is the plugin manifest of a release: the sha256 of each plugin by
// operating system and architecture, in the form that stands behind sha256: in
// tagstore.yaml.
func pluginSums(s settings, sums map[string]map[target]string) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "# The sha256 of each plugin of tagstore %s. What stands behind the operating\n", s.version)
	fmt.Fprintf(&out, "# system of the services is what stands behind sha256: in their manifest.\nversion: %q\ncommit: %q\nplugins:\n", s.version, s.commit)
	for _, p := range pluginPrograms() {
		if sums[p.name] == nil {
			continue
		}
		fmt.Fprintf(&out, "  %s:\n", p.name)
		for _, goos := range []string{"darwin", "linux"} {
			var parts []string
			for _, arch := range []string{"amd64", "arm64"} {
				if sum := sums[p.name][target{goos, arch}]; sum != "" {
					parts = append(parts, arch+": "+sum)
				}
			}
			if len(parts) > 0 {
				fmt.Fprintf(&out, "    %s: { %s }\n", goos, strings.Join(parts, ", "))
			}
		}
	}
	return out.Bytes()
}

// makeChecksums writes SHA256SUMS of all files in dir, as sha256sum -c reads it.
func makeChecksums(dir string, stdout io.Writer) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, f := range files { // in order of name
		sum, err := sumOf(filepath.Join(dir, f.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "%s  %s\n", sum, f.Name())
	}
	if err := os.WriteFile(filepath.Join(dir, "SHA256SUMS"), out.Bytes(), 0o644); err != nil { //nolint:gosec // it is for everybody
		return err
	}
	_, err = stdout.Write(out.Bytes())
	return err
}
