package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"text/tabwriter"

	"github.com/tagstore/tagstore/release/internal/authorities"
)

// maxImage is the most that the tree of a service may take, its plugins apart.
const maxImage = 60 << 20

// image is what is known of a service's image beside its files.
type image struct {
	service string
	program program
	ports   []string
	// volumes are folders that the service writes to, which an engine mounts.
	volumes []string
	// data are further such folders, which are there for who mounts them.
	data []string
	env  []string
	// manifest says that it has one, with the plugins.
	manifest bool
}

func images() []image {
	return []image{
		{
			service: "config", program: configProgram, ports: []string{"7070/tcp"}, volumes: []string{"/run/tagstore"}, manifest: true,
			env: []string{"TAGSTORE_MANIFEST=/" + manifestFolder + "/" + manifestName, "TAGSTORE_SOCKET_DIR=/run/tagstore"},
		},
		{service: "order", program: orderProgram, ports: []string{"8080/tcp"}, data: []string{"/var/lib/tagstore"}},
	}
}

const programFolder = "usr/local/bin"

func (i image) entrypoint() string { return "/" + path.Join(programFolder, i.program.name) }

// user is who the service runs as, by number: there is nobody to look a name up.
const user = "65532:65532"

// tree is the root of an image: a program, what it reads, and nothing that could
// run anything else.
func (i image) tree(root string, binary string, m signed, arch string) (tree, error) {
	roots, err := authorities.PEM()
	if err != nil {
		return nil, err
	}
	entries := []entry{
		copied(path.Join(programFolder, i.program.name), 0o555, binary),
		file("etc/passwd", 0o444, []byte("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")),
		file("etc/group", 0o444, []byte("root:x:0:\nnonroot:x:65532:\n")),
		file("etc/ssl/certs/ca-certificates.crt", 0o444, roots),
		copied("usr/share/doc/tagstore/LICENSE", 0o444, filepath.Join(root, "LICENSE")),
		copied("usr/share/doc/tagstore/NOTICE", 0o444, filepath.Join(root, "NOTICE")),
		// What an engine mounts over, which it can not make in a root that is read-only.
		folder("dev", 0o755, 0), folder("proc", 0o555, 0), folder("sys", 0o555, 0),
		folder("tmp", 0o777|fs.ModeSticky, 0),
	}
	for _, dir := range append(i.volumes, i.data...) {
		entries = append(entries, folder(dir[1:], 0o700, nonroot))
	}
	if i.manifest {
		entries = append(entries, m.files(manifestFolder)...)
		entries = append(entries, m.schemas...)
		entries = append(entries, m.plugins[arch]...)
	}
	return newTree(entries...)
}

// built is the tree of one image for one architecture.
type built struct {
	image
	arch     string
	tree     tree
	digest   string
	binary   string
	plugins  []string // the files that they were built into
	size     int64    // without the plugins
	ofPlugin int64
}

// assemble builds everything that the images hold.
func assemble(ctx context.Context, s settings) ([]built, signed, error) {
	b := newBuilder(s)
	m, err := makeManifest(ctx, s, b, filepath.Join(s.out, ".manifest"))
	if err != nil {
		return nil, signed{}, err
	}
	var all []built
	for _, arch := range s.arches {
		paths, err := b.build(ctx, target{"linux", arch}, configProgram, orderProgram)
		if err != nil {
			return nil, signed{}, err
		}
		for _, i := range images() {
			one := built{image: i, arch: arch, binary: paths[i.program.name]}
			if one.tree, err = i.tree(s.root, one.binary, m, arch); err != nil {
				return nil, signed{}, err
			}
			if i.manifest {
				one.plugins = m.built[arch]
				var under []string
				for _, p := range m.plugins[arch] {
					under = append(under, p.path)
				}
				if len(under) > 0 {
					if one.ofPlugin, err = one.tree.size(under...); err != nil {
						return nil, signed{}, err
					}
				}
			}
			if one.size, err = one.tree.size(); err != nil {
				return nil, signed{}, err
			}
			one.size -= one.ofPlugin
			if one.digest, err = one.tree.digest(); err != nil {
				return nil, signed{}, err
			}
			all = append(all, one)
		}
	}
	return all, m, nil
}

// rootOf is where the tree of an image is written.
func rootOf(out, service, arch string) string { return filepath.Join(out, service, arch) }

// makeImages writes the trees, and for full also the layouts.
func makeImages(ctx context.Context, s settings, full bool, stdout io.Writer) error {
	all, m, err := assemble(ctx, s)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tARCH\tSIZE\tPLUGINS\tTREE")
	for _, b := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", b.service, b.arch, megabytes(b.size), megabytes(b.ofPlugin), b.digest)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, b := range all {
		if b.size > maxImage {
			return fmt.Errorf("%s for %s takes %s without its plugins, more than %s", b.service, b.arch, megabytes(b.size), megabytes(maxImage))
		}
		if err := b.tree.write(rootOf(s.out, b.service, b.arch)); err != nil {
			return err
		}
	}
	if full {
		if err := makeLayouts(s, all, stdout); err != nil {
			return err
		}
	}
	tellKey(m, s, stdout)
	return nil
}

// tellKey says what the services have to be told, and that a key of no release
// was used.
func tellKey(m signed, s settings, stdout io.Writer) {
	fmt.Fprintf(stdout, "TAGSTORE_MANIFEST_KEY=%s\n", m.publicKey)
	if s.key == "" {
		fmt.Fprintf(stdout, "It is signed with %s, which was made here for trying things out; -key names that of a release.\n", m.keyFile)
	}
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/(1<<20)) }
