package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/tagstore/tagstore/core/manifest"
)

// In an image, and as the stack has it.
const (
	manifestFolder = "etc/tagstore"
	manifestName   = "tagstore.yaml"
)

// signed is a manifest with the sums of its plugins for every architecture, its
// signature, and what it names.
type signed struct {
	text, signature []byte
	publicKey       string             // as TAGSTORE_MANIFEST_KEY takes it
	keyFile         string             // whose key that is
	plugins         map[string][]entry // by architecture
	schemas         []entry
	built           map[string][]string // paths of the plugins, by architecture
}

// files are those of a manifest that are in an image and in a package alike.
func (m signed) files(folder string) []entry {
	return []entry{
		file(path.Join(folder, manifestName), 0o444, m.text),
		file(path.Join(folder, manifestName+".sig"), 0o444, m.signature),
	}
}

// makeManifest builds the plugins that the manifest names, writes their sums into
// it and signs it. Everything is laid out below dir as in an image, since what is
// signed is what a service would take.
func makeManifest(ctx context.Context, s settings, b builder, dir string) (signed, error) {
	if !slices.Contains(s.arches, runtime.GOARCH) {
		return signed{}, fmt.Errorf("what is signed is tried first: %s, that of this machine, has to be among the architectures", runtime.GOARCH)
	}
	source := s.manifest
	if !filepath.IsAbs(source) {
		source = filepath.Join(s.root, source)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		return signed{}, err
	}
	if text, err = s.set.fill(text, s.manifest); err != nil {
		return signed{}, err
	}
	m, err := manifest.Parse(text, manifestName)
	if err != nil {
		return signed{}, fmt.Errorf("%s: %w", s.manifest, err)
	}
	out := signed{plugins: map[string][]entry{}, built: map[string][]string{}}
	for _, r := range m.Routes {
		if r.SchemaPath == "" {
			continue
		}
		e := copied(path.Join(manifestFolder, filepath.ToSlash(r.SchemaPath)), 0o444, filepath.Join(filepath.Dir(source), r.SchemaPath))
		if !slices.ContainsFunc(out.schemas, func(o entry) bool { return o.path == e.path }) {
			out.schemas = append(out.schemas, e)
		}
	}
	for _, arch := range s.arches {
		if err := out.addPlugins(ctx, s, b, m, arch); err != nil {
			return signed{}, err
		}
	}
	at := func(arch string) string {
		return filepath.Join(dir, arch, filepath.FromSlash(manifestFolder), manifestName)
	}
	for _, arch := range s.arches {
		entries := append([]entry{file(path.Join(manifestFolder, manifestName), 0o644, text)}, out.schemas...)
		t, err := newTree(append(entries, out.plugins[arch]...)...)
		if err == nil {
			err = t.write(filepath.Join(dir, arch))
		}
		if err != nil {
			return signed{}, err
		}
		if text, _, err = manifest.PinFor(at(arch), arch); err != nil {
			return signed{}, err
		}
	}
	out.text = text
	if err := os.WriteFile(at(runtime.GOARCH), text, 0o644); err != nil { //nolint:gosec // it holds no secret
		return signed{}, err
	}
	var key ed25519.PrivateKey
	if key, out.keyFile, err = signingKey(s); err != nil {
		return signed{}, err
	}
	out.publicKey = base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	out.signature, err = manifest.Sign(at(runtime.GOARCH), key)
	return out, err
}

// addPlugins builds, or finds, the plugins of one architecture.
func (m *signed) addPlugins(ctx context.Context, s settings, b builder, of *manifest.Manifest, arch string) error {
	var own []program
	var names []string // relative to the manifest
	for _, backend := range of.Backends {
		name := filepath.ToSlash(backend.Plugin)
		if name == "" || slices.Contains(names, name) {
			continue
		}
		if !fs.ValidPath(name) {
			return fmt.Errorf("%s: the plugin of backend %q leaves the folder", s.manifest, backend.Name)
		}
		names = append(names, name)
		if i := slices.IndexFunc(pluginPrograms(), func(p program) bool { return p.name == path.Base(name) }); i >= 0 {
			own = append(own, pluginPrograms()[i])
		}
	}
	paths := map[string]string{}
	if len(own) > 0 {
		var err error
		if paths, err = b.build(ctx, target{"linux", arch}, own...); err != nil {
			return err
		}
	}
	for _, name := range names {
		source := paths[path.Base(name)]
		if source == "" {
			if s.plugins == "" {
				return fmt.Errorf("%s: %s is no plugin of this repository: say with -plugins where it is", s.manifest, path.Base(name))
			}
			source = filepath.Join(s.plugins, arch, path.Base(name))
		}
		m.plugins[arch] = append(m.plugins[arch], copied(path.Join(manifestFolder, name), 0o555, source))
		m.built[arch] = append(m.built[arch], source)
	}
	return nil
}

var placeholder = regexp.MustCompile(`\$\{[^}\n]*\}`)

// fill puts values in place of ${NAME}.
func (v values) fill(text []byte, name string) ([]byte, error) {
	missing := map[string]bool{}
	out := placeholder.ReplaceAllFunc(text, func(p []byte) []byte {
		name := string(p[2 : len(p)-1])
		value, ok := v[name]
		if !ok {
			missing[name] = true
		}
		return []byte(value)
	})
	if len(missing) > 0 {
		return nil, fmt.Errorf("%s: it needs -set %s", name, strings.Join(slices.Sorted(maps.Keys(missing)), "=… -set ")+"=…")
	}
	return out, nil
}

// signingKey reads the private key, or makes one where none was given: what that
// signs is for trying things out.
func signingKey(s settings) (ed25519.PrivateKey, string, error) {
	at := s.key
	if at == "" {
		at = filepath.Join(s.work, "unreleased.key") // one for images and packages
	}
	text, err := os.ReadFile(at)
	if errors.Is(err, fs.ErrNotExist) && s.key == "" {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, "", err
		}
		if text, _, err = manifest.MarshalKeys(key); err != nil {
			return nil, "", err
		}
		return key, at, os.WriteFile(at, text, 0o600)
	}
	if err != nil {
		return nil, "", err
	}
	info, err := os.Stat(at)
	if err != nil {
		return nil, "", err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, "", fmt.Errorf("others can read the private key in %s: chmod 600 it; if others may have read it, make a new one", at)
	}
	key, err := manifest.ParsePrivateKey(text)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", at, err)
	}
	return key, at, nil
}
