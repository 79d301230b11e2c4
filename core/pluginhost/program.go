package pluginhost

import (
	"bufio"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/tagstore/tagstore/core/config"
)

const (
	// maxProgram is the largest pinned program in bytes: it is held in memory.
	maxProgram = 512 << 20
	// maxShebang is as much as the kernel reads of a script's first line.
	maxShebang = 256
	// scriptFD is the descriptor under which a pinned script is handed to its
	// interpreter: the first behind standard input, output and error.
	scriptFD = "/proc/self/fd/3"

	badProgram = config.FailedPrecondition
)

// executable is what the launches of one plugin run. The zero value is ready,
// close releases it; one goroutine uses it.
type executable struct {
	image *image // nil: what lies at the plugin's path
}

// prepare checks the plugin's program. The bytes of a pinned one are taken at
// the first launch, and every later one runs these, whatever has become of the
// file since.
func (e *executable) prepare(p Plugin, o Options, held *images) error {
	if e.image == nil {
		if err := checkProgram(p, o.Dev); err != nil {
			return err
		}
		if p.SHA256 != "" {
			var err error
			if e.image, err = held.open(p, o.Logger); err != nil {
				return err
			}
		}
	}
	if p.Dir != "" {
		if info, err := os.Stat(p.Dir); err != nil || !info.IsDir() {
			return p.errorf(badProgram, "its working folder %s is not there", p.Dir)
		}
	}
	return nil
}

func (e *executable) close() {
	if e.image != nil {
		e.image.release()
		e.image = nil
	}
}

// command returns what to execute for p: a path, and the file that the process
// has to inherit for that, nil for none.
func (e *executable) command(p Plugin) (path string, inherited *os.File) {
	switch i := e.image; {
	case i == nil:
		return p.Path, nil
	case i.copied != "":
		return i.copied, nil
	case i.script:
		// The kernel hands the interpreter the path that it was told to execute,
		// so the descriptor must outlive the exec.
		return scriptFD, i.file
	default:
		// Resolved before the exec closes it: a program of the machine's own inherits nothing.
		return descriptorPath(i.file), nil
	}
}

// images are the verified bytes of a host's pinned programs, each held once
// however many plugins run it.
type images struct {
	dir string // private, for the platforms where bytes can not be sealed

	mu   sync.Mutex
	held map[string]*image // by digest
}

// image is one program's verified bytes: a file without a name whose bytes
// nobody can change any more, or a private copy.
type image struct {
	set   *images
	sum   string
	users int // under set.mu

	mu     sync.Mutex // of the loading; what follows does not change behind it
	file   *os.File
	script bool
	copied string // path of the private copy, instead of file

	from string      // the path that was last verified, under mu
	seen fs.FileInfo // and its file then
}

// open reads the plugin's program once: the bytes that are hashed are the bytes
// that are kept. An image that another plugin holds is used for this one, too,
// if its file still has those bytes.
func (s *images) open(p Plugin, logger *slog.Logger) (*image, error) {
	s.mu.Lock()
	if s.held == nil {
		s.held = map[string]*image{}
	}
	i := s.held[p.SHA256]
	if i == nil {
		i = &image{set: s, sum: p.SHA256}
		s.held[i.sum] = i
	}
	i.users++
	s.mu.Unlock()
	if err := i.load(p, logger); err != nil {
		i.release()
		return nil, err
	}
	return i, nil
}

func (i *image) release() {
	i.set.mu.Lock()
	defer i.set.mu.Unlock()
	if i.users--; i.users > 0 {
		return
	}
	delete(i.set.held, i.sum)
	if i.file != nil {
		i.file.Close()
	}
	if i.copied != "" {
		_ = os.Remove(i.copied)
	}
}

func (i *image) load(p Plugin, logger *slog.Logger) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	program, err := openProgram(p)
	if err != nil {
		return err
	}
	defer program.Close()
	info, err := program.Stat()
	if err != nil {
		return p.errorf(badProgram, "its program can not be read: %w", err)
	}
	if i.from == p.Path && os.SameFile(i.seen, info) && i.seen.Size() == info.Size() && i.seen.ModTime().Equal(info.ModTime()) {
		return nil // one of many instances; at worst its file is not told of, and never runs
	}
	if err := i.read(p, program, logger); err != nil {
		return err
	}
	i.from, i.seen = p.Path, info
	return nil
}

// read verifies the bytes of a program and keeps them, unless they are held.
func (i *image) read(p Plugin, program io.Reader, logger *slog.Logger) error {
	sum := sha256.New()
	if i.file != nil || i.copied != "" {
		_, err := io.Copy(sum, program)
		return i.verify(p, sum, err)
	}
	sealed, err := newSealable(filepath.Base(p.Path))
	if err != nil {
		logger.Warn("a pinned program is copied to a private file: its bytes can not be sealed here",
			"plugin", p.Name, "error", err)
		return i.loadCopy(p, program, sum)
	}
	_, err = io.Copy(io.MultiWriter(sealed, sum), program)
	if err = i.verify(p, sum, err); err == nil {
		if err = seal(sealed); err != nil {
			err = p.errorf(config.Unavailable, "its program can not be sealed: %w", err)
		}
	}
	if err != nil {
		sealed.Close()
		return err
	}
	i.file, i.script = sealed, isScript(sealed)
	return nil
}

// loadCopy makes a copy that only this user can write to, in a folder that only
// this user can enter.
func (i *image) loadCopy(p Plugin, program io.Reader, sum hash.Hash) error {
	f, err := os.CreateTemp(i.set.dir, "verified")
	if err == nil {
		_, err = io.Copy(io.MultiWriter(f, sum), program)
		err = errors.Join(err, f.Chmod(0o500))
		err = errors.Join(err, f.Close()) // before the exec: a file that is open for writing can not be executed
	}
	if err = i.verify(p, sum, err); err != nil {
		if f != nil {
			_ = os.Remove(f.Name())
		}
		return err
	}
	i.copied = f.Name()
	return nil
}

// verify compares what was read; err is how the reading went.
func (i *image) verify(p Plugin, sum hash.Hash, err error) error {
	if err != nil {
		return p.errorf(badProgram, "its program can not be read: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != i.sum {
		return p.errorf(badProgram, "the bytes of %s have the sha256 %s, pinned is %s", p.Path, got, i.sum).
			WithHint("put the program in place that was pinned, or pin this one once you know why it changed")
	}
	return nil
}

func openProgram(p Plugin) (*os.File, error) {
	// A named pipe that was put in the file's place would wait for its other end.
	f, err := os.OpenFile(p.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, p.errorf(badProgram, "its program can not be read: %w", err).
			WithHint("a pinned program has to be readable by this user")
	}
	switch info, err := f.Stat(); {
	case err != nil || !info.Mode().IsRegular():
		f.Close()
		return nil, p.errorf(badProgram, "%s is not a regular file", p.Path)
	case info.Size() > maxProgram:
		f.Close()
		return nil, p.errorf(badProgram, "%s has more than %d MiB, which is too large for a pinned program", p.Path, maxProgram>>20)
	}
	return f, nil
}

func isScript(r io.ReaderAt) bool {
	var begin [2]byte
	_, _ = r.ReadAt(begin[:], 0)
	return string(begin[:]) == "#!"
}

// checkProgram says what is wrong with the program's file, before fork and exec
// say it in fewer words.
func checkProgram(p Plugin, dev bool) error {
	info, err := os.Stat(p.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return p.errorf(badProgram, "there is no program at %s", p.Path).WithHint("build it, or correct its path in the manifest")
	case err != nil:
		return p.errorf(badProgram, "its program can not be read: %w", err)
	case info.IsDir():
		return p.errorf(badProgram, "%s is a folder, not a program", p.Path).WithHint("correct its path in the manifest")
	case !info.Mode().IsRegular():
		return p.errorf(badProgram, "%s is not a regular file", p.Path).WithHint("correct its path in the manifest")
	case info.Mode().Perm()&0o111 == 0:
		return p.errorf(badProgram, "%s may not be executed", p.Path).WithHint("chmod +x it, if it is the plugin")
	}
	if !dev {
		if err := checkWriters(p); err != nil {
			return err
		}
	}
	return checkInterpreter(p)
}

// checkWriters refuses a program that somebody else than this user and root
// could replace: by writing to it, or to a folder that it lies in.
func checkWriters(p Plugin) error {
	resolved, err := filepath.EvalSymlinks(p.Path)
	if err != nil {
		return p.errorf(badProgram, "its program can not be read: %w", err)
	}
	for _, path := range []string{filepath.Clean(p.Path), resolved} {
		for ; ; path = filepath.Dir(path) {
			info, err := os.Lstat(path)
			if err != nil {
				return p.errorf(badProgram, "its program can not be read: %w", err)
			}
			if err := checkWriter(p, path, info); err != nil {
				return err
			}
			if path == filepath.Dir(path) {
				break
			}
		}
	}
	return nil
}

func checkWriter(p Plugin, path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return p.errorf(badProgram, "whose file %s is can not be found out", path)
	}
	if uid := int(stat.Uid); uid != 0 && uid != os.Geteuid() {
		return p.errorf(badProgram, "%s belongs to user %d, who can replace the program", path, uid).
			WithHint("chown it to root or to the user of this service")
	}
	mode := info.Mode()
	if mode.Perm()&0o022 == 0 || mode&fs.ModeSymlink != 0 {
		return nil
	}
	if !mode.IsDir() {
		return p.errorf(badProgram, "other users can write to its program %s", path).WithHint("chmod go-w it")
	}
	if mode&fs.ModeSticky == 0 { // in a sticky folder only the owner of a file can replace it
		return p.errorf(badProgram, "other users can write to the folder %s and replace the program", path).WithHint("chmod go-w it")
	}
	return nil
}

// checkInterpreter looks whether what a script asks for is there: the system
// would say that the script itself is not. What can not be read is not looked
// at: it may still be executed.
func checkInterpreter(p Plugin) error {
	f, err := os.Open(p.Path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if !isScript(f) {
		return nil
	}
	line, _ := bufio.NewReaderSize(f, maxShebang).ReadSlice('\n')
	// As the kernel parts them: anything but a blank, a tab and the line's end belongs to the name.
	words := strings.FieldsFunc(strings.TrimPrefix(string(line), "#!"), func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' })
	if len(words) == 0 {
		return p.errorf(badProgram, "%s is a script whose first line names no interpreter", p.Path).
			WithHint("begin it with a line such as #!/usr/bin/python3: a plugin has no PATH")
	}
	info, err := os.Stat(words[0])
	switch {
	case err != nil && strings.HasSuffix(string(line), "\r\n"):
		return p.errorf(badProgram, "the first line of the script %s ends as on Windows", p.Path).
			WithHint("save it with plain line ends")
	case err != nil:
		return p.errorf(badProgram, "the interpreter %q of the script %s is not there", words[0], p.Path).
			WithHint("install it, or correct the first line of the script")
	case info.IsDir() || info.Mode().Perm()&0o111 == 0:
		return p.errorf(badProgram, "the interpreter %q of the script %s may not be executed", words[0], p.Path).
			WithHint("correct the first line of the script")
	}
	return nil
}

// explainExec says why the system did not execute the program.
func explainExec(p Plugin, err error) error {
	f, openErr := os.Open(p.Path)
	if openErr != nil {
		return p.errorf(badProgram, "it can not be started: %w", err)
	}
	defer f.Close()
	program, notELF := elf.NewFile(f)
	switch {
	case errors.Is(err, syscall.ENOEXEC) && notELF != nil && isText(f):
		return p.errorf(badProgram, "%s is text without an interpreter, not a program for %s/%s", p.Path, runtime.GOOS, runtime.GOARCH).
			WithHint("if it is a script, begin it with a line such as #!/usr/bin/python3: a plugin has no PATH")
	case errors.Is(err, syscall.ENOEXEC) && notELF != nil:
		return p.errorf(badProgram, "%s is not a program for %s/%s", p.Path, runtime.GOOS, runtime.GOARCH).
			WithHint("build the plugin for this machine")
	case errors.Is(err, syscall.ENOEXEC):
		return p.errorf(badProgram, "%s is a program for %s, not for %s/%s", p.Path, machine(program.Machine), runtime.GOOS, runtime.GOARCH).
			WithHint("build the plugin for this machine")
	case errors.Is(err, syscall.ENOENT) && notELF == nil && loader(program) != "":
		return p.errorf(badProgram, "%s needs the loader %q, which is not there", p.Path, loader(program)).
			WithHint("build it statically (CGO_ENABLED=0), or for this system's C library")
	case errors.Is(err, syscall.EACCES):
		return p.errorf(badProgram, "the system does not let %s be executed", p.Path).
			WithHint("is its folder on a file system that is mounted noexec?").WithCause(err)
	}
	return p.errorf(badProgram, "it can not be started: %w", err)
}

func isText(r io.ReaderAt) bool {
	begin := make([]byte, maxShebang)
	n, _ := r.ReadAt(begin, 0)
	return n > 0 && !strings.ContainsFunc(string(begin[:n]), func(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' })
}

// machine is the Go name of an architecture, where it has one.
func machine(m elf.Machine) string {
	switch m {
	case elf.EM_X86_64:
		return "amd64"
	case elf.EM_AARCH64:
		return "arm64"
	case elf.EM_386:
		return "386"
	case elf.EM_ARM:
		return "arm"
	case elf.EM_RISCV:
		return "riscv64"
	default:
		return m.String()
	}
}

// loader is what a dynamically linked program is started by, "" for a static one.
func loader(program *elf.File) string {
	for _, part := range program.Progs {
		if part.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(io.LimitReader(part.Open(), maxShebang))
		if err != nil {
			return ""
		}
		return strings.TrimRight(string(name), "\x00")
	}
	return ""
}
