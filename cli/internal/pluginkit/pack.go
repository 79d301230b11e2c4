package pluginkit

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// Package is what Pack made.
type Package struct {
	Archive       string // its path
	ArchiveSHA256 string
	Programs      []Program
	// Entry is what to put into a manifest, in YAML.
	Entry string
}

// Program is one executable of a Package.
type Program struct {
	OS, Arch string
	Path     string // in the archive
	SHA256   string
	Bytes    int64
}

// Packing says what to pack.
type Packing struct {
	Name, Version string
	Binaries      []string
	Readme        string // a file, "" for none
	Dir           string // where the archive goes
	// Time is that of every file in the archive: the same input makes the same
	// bytes. The zero time is 1970.
	Time time.Time
}

// names of a package become a folder and a file.
var packageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// Pack writes NAME-VERSION.tar.gz: per platform a folder with the program, the
// README, SHA256SUMS and manifest.yaml with the entry.
func Pack(p Packing) (Package, error) {
	for what, text := range map[string]string{"name": p.Name, "version": p.Version} {
		if !packageName.MatchString(text) {
			return Package{}, config.Errorf(config.InvalidArgument, "the %s %q can not be part of a file's name", what, text).
				WithHint("set --%s to letters, digits, '.', '_', '+' and '-'", what)
		}
	}
	root := p.Name + "-" + p.Version
	program := "tagstore-plugin-" + p.Name
	var (
		out   Package
		files []packed
		sums  strings.Builder
	)
	for _, path := range p.Binaries {
		content, err := os.ReadFile(path)
		if err != nil {
			return Package{}, config.Errorf(config.NotFound, "%s can not be read", path).WithHint("build the plugin first").WithCause(err)
		}
		goos, arch, err := platform(path)
		if err != nil {
			return Package{}, err
		}
		if slices.ContainsFunc(out.Programs, func(o Program) bool { return o.OS == goos && o.Arch == arch }) {
			return Package{}, config.Errorf(config.InvalidArgument, "two of the programs are for %s/%s", goos, arch).
				WithHint("name one for each platform")
		}
		sum := sha256.Sum256(content)
		b := Program{
			OS: goos, Arch: arch, Path: filepath.ToSlash(filepath.Join(goos+"-"+arch, program)), SHA256: hex.EncodeToString(sum[:]), Bytes: int64(len(content)),
		}
		out.Programs = append(out.Programs, b)
		files = append(files, packed{b.Path, 0o755, content})
	}
	slices.SortFunc(out.Programs, func(x, y Program) int { return strings.Compare(x.Path, y.Path) })
	for _, b := range out.Programs {
		fmt.Fprintf(&sums, "%s  %s\n", b.SHA256, b.Path)
	}
	out.Entry = entry(p.Name, program, out.Programs)
	files = append(files, packed{"SHA256SUMS", 0o644, []byte(sums.String())}, packed{"manifest.yaml", 0o644, []byte(out.Entry)})
	if p.Readme != "" {
		content, err := os.ReadFile(p.Readme)
		if err != nil {
			return Package{}, config.Errorf(config.NotFound, "the README %s can not be read", p.Readme).WithCause(err)
		}
		files = append(files, packed{"README.md", 0o644, content})
	}
	archive, err := archived(root, files, p.Time)
	if err != nil {
		return Package{}, err
	}
	sum := sha256.Sum256(archive)
	out.Archive, out.ArchiveSHA256 = filepath.Join(p.Dir, root+".tar.gz"), hex.EncodeToString(sum[:])
	if err := os.WriteFile(out.Archive, archive, 0o644); err != nil { //nolint:gosec // G306: it is to be handed out
		return Package{}, config.Errorf(config.FailedPrecondition, "%s can not be written", out.Archive).WithHint("choose another folder with --out").WithCause(err)
	}
	return out, nil
}

type packed struct {
	name    string
	mode    int64
	content []byte
}

// archived returns the bytes of the archive: sorted, of nobody, at one time.
func archived(root string, files []packed, at time.Time) ([]byte, error) {
	if at.IsZero() {
		at = time.Unix(0, 0)
	}
	slices.SortFunc(files, func(x, y packed) int { return strings.Compare(x.name, y.name) })
	var b bytes.Buffer
	z := gzip.NewWriter(&b) // its header has no time and no name
	w := tar.NewWriter(z)
	for _, f := range files {
		err := w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: root + "/" + f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: at.UTC(), Format: tar.FormatUSTAR,
		})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// entry is a manifest's part for the plugin. The checksums are per architecture,
// as the services of one manifest may run on several.
func entry(name, program string, programs []Program) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Put this into the manifest, and the program of the service's platform into\n# plugins/ beside it.\n")
	fmt.Fprintf(&b, "backends:\n  %s:\n    plugin: ./plugins/%s\n    sha256:\n", name, program)
	for _, p := range programs {
		if p.OS == "linux" {
			fmt.Fprintf(&b, "      %s: %s\n", p.Arch, p.SHA256)
		} else {
			fmt.Fprintf(&b, "      # %s/%s: %s\n", p.OS, p.Arch, p.SHA256)
		}
	}
	fmt.Fprintf(&b, "    options: {}\nroutes:\n  - prefix: %s_config_\n    backend: %[1]s\n", name)
	return b.String()
}

// machines are the architectures that an ELF file may be for, by Go's names.
var machines = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_386: "386", elf.EM_ARM: "arm", elf.EM_RISCV: "riscv64"}

// platform returns which system a program is for: what Go wrote into it, or what
// the header of an ELF file says.
func platform(path string) (goos, arch string, err error) {
	if info, err := buildinfo.ReadFile(path); err == nil {
		for _, s := range info.Settings {
			switch s.Key {
			case "GOOS":
				goos = s.Value
			case "GOARCH":
				arch = s.Value
			}
		}
		if goos != "" && arch != "" {
			return goos, arch, nil
		}
	}
	if f, err := elf.Open(path); err == nil {
		_ = f.Close() // the header has been read
		if arch := machines[f.Machine]; arch != "" && (f.OSABI == elf.ELFOSABI_NONE || f.OSABI == elf.ELFOSABI_LINUX) {
			return "linux", arch, nil
		}
	}
	return "", "", config.Errorf(config.InvalidArgument, "%s is no program whose platform can be told", path).
		WithHint("pack executables; a script and its interpreter belong into an image of their own")
}

// SourceDate reads SOURCE_DATE_EPOCH, by which builds that are to be the same say
// when they were made.
func SourceDate(text string) time.Time {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}
