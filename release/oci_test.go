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
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// indexes are the images' indexes as their layouts have them.
func indexes(t *testing.T, o output) map[string]v1.ImageIndex {
	t.Helper()
	out := map[string]v1.ImageIndex{}
	for _, service := range []string{"config", "order"} {
		top, err := layout.ImageIndexFromPath(filepath.Join(o.dir, service, "oci"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := top.IndexManifest()
		if err != nil || len(m.Manifests) != 1 {
			t.Fatalf("the layout of %s has %+v, %v", service, m, err)
		}
		if out[service], err = top.ImageIndex(m.Manifests[0].Digest); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func digests(t *testing.T, o output) []string {
	t.Helper()
	var out []string
	for service, index := range indexes(t, o) {
		d, err := index.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(o.text, d.String()) {
			t.Errorf("the digest of %s, %s, is not told:\n%s", service, d, o.text)
		}
		out = append(out, service+"@"+d.String())
	}
	slices.Sort(out)
	return out
}

// An image has the tree that the tests run, and is started as they start it.
func TestLayoutsHaveTheTrees(t *testing.T) {
	t.Parallel()
	o := theImages(t)
	for service, index := range indexes(t, o) {
		if err := validate.Index(index, validate.Fast); err != nil {
			t.Errorf("%s: %v", service, err)
		}
		m, err := index.IndexManifest()
		if err != nil || len(m.Manifests) != 1 {
			t.Fatalf("%s: %+v, %v", service, m, err)
		}
		if p := m.Manifests[0].Platform; p == nil || p.OS != "linux" || p.Architecture != runtime.GOARCH {
			t.Errorf("%s is for %v", service, p)
		}
		img, err := index.Image(m.Manifests[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Config.User != "65532:65532" || config.Config.Entrypoint[0] != "/usr/local/bin/tagstore-"+service || config.Config.Labels["org.opencontainers.image.version"] != "v1.2.3-test" {
			t.Errorf("%s is started by %+v", service, config.Config)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%s has the layers %v, %v", service, layers, err)
		}
		digest, err := layers[0].Digest()
		if err != nil {
			t.Fatal(err)
		}
		blob := filepath.Join(o.dir, service, "oci", "blobs", "sha256", digest.Hex)
		if sum, err := sumOf(blob); err != nil || sum != digest.Hex {
			t.Errorf("%s has the sum %s, %v", blob, sum, err)
		}
		content := unzipped(t, blob)
		sameFiles(t, content, rootOf(o.dir, service, runtime.GOARCH))
		sum := sha256.Sum256(content)
		tree := "sha256:" + hex.EncodeToString(sum[:])
		if len(config.RootFS.DiffIDs) != 1 || config.RootFS.DiffIDs[0].String() != tree || !strings.Contains(o.text, tree) {
			t.Errorf("the layer of %s is %s, the configuration says %v, and told was\n%s", service, tree, config.RootFS.DiffIDs, o.text)
		}
	}
}

// unzipped is what gzip makes of a file: the race detector would take minutes.
func unzipped(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.CommandContext(t.Context(), "gzip", "-dc")
	cmd.Stdin = f
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("gzip -dc %s: %v", path, err)
	}
	return text
}

// sameFiles compares a layer with a folder.
func sameFiles(t *testing.T, layer []byte, root string) {
	t.Helper()
	seen := map[string]bool{".": true}
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		seen[name] = true
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode() != h.FileInfo().Mode() || !h.ModTime.Equal(epoch) || os.Geteuid() == 0 && (h.Uid != owner(info) || h.Gid != h.Uid) {
			t.Errorf("%s: in the layer %v of %d, in the folder %v of %d", name, h.FileInfo().Mode(), h.Uid, info.Mode(), owner(info))
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		a, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %v", name, err)
		}
	}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if rel, relErr := filepath.Rel(root, path); relErr != nil || !seen[rel] {
			t.Errorf("%s is not in the layer", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// instruction is a line of a Dockerfile, continued lines joined.
var instruction = regexp.MustCompile(`(?m)^([A-Z]+) +((?:.*\\\n)*.*)$`)

// The Dockerfile says of each image what the layouts do.
func TestDockerfileSaysTheSame(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := map[string][]string{}
	stage := ""
	for _, m := range instruction.FindAllStringSubmatch(string(text), -1) {
		if m[1] == "FROM" {
			fields := strings.Fields(m[2])
			stage = fields[len(fields)-1]
		}
		line := m[1] + " " + strings.Join(strings.Fields(strings.ReplaceAll(m[2], "\\\n", " ")), " ")
		stages[stage] = append(stages[stage], line)
	}
	for _, i := range images() {
		c := i.config(settings{version: "${VERSION}", commit: "${COMMIT}"})
		label := "LABEL"
		for _, name := range []string{"title", "version", "revision", "licenses"} {
			label += fmt.Sprintf(" %s%s=%q", ociName, name, c.Labels[ociName+name])
		}
		want := []string{"FROM scratch AS " + i.service, "ARG TARGETARCH", "ARG VERSION=unknown", "ARG COMMIT=unknown", label, "COPY --from=build /out/" + i.service + "/${TARGETARCH}/ /"}
		if len(c.Env) > 0 {
			want = append(want, "ENV "+strings.Join(c.Env, " "))
		}
		want = append(want, "WORKDIR "+c.WorkingDir, "USER "+c.User)
		for v := range c.Volumes {
			want = append(want, fmt.Sprintf("VOLUME [%q]", v))
		}
		for p := range c.ExposedPorts {
			want = append(want, "EXPOSE "+p)
		}
		h := c.Healthcheck
		want = append(want, "STOPSIGNAL "+c.StopSignal,
			fmt.Sprintf("HEALTHCHECK --interval=%.0fs --timeout=%.0fs --start-period=%.0fs --retries=%d %s [%q, %q]",
				h.Interval.Seconds(), h.Timeout.Seconds(), h.StartPeriod.Seconds(), h.Retries, h.Test[0], h.Test[1], h.Test[2]),
			fmt.Sprintf("ENTRYPOINT [%q]", c.Entrypoint[0]))
		if diff := cmp.Diff(want, stages[i.service]); diff != "" {
			t.Errorf("%s (-layout +Dockerfile):\n%s", i.service, diff)
		}
	}
	if len(stages) != 2+len(images()) { // what is before the first, and what builds
		t.Errorf("the stages are %v", stages)
	}
	build := strings.Join(stages["build"], "\n")
	if !strings.Contains(build, " scripts/image-root /out ") || !strings.Contains(build, "--mount=type=secret,id=manifest-key,required=true") {
		t.Errorf("it is not built by the script, or not signed:\n%s", build)
	}
}

// A bill of materials has every program of the image, and what is in them.
func TestBillOfMaterials(t *testing.T) {
	t.Parallel()
	o := theImages(t)
	for service, want := range map[string][]string{
		"config": {
			"pkg:golang/github.com/tagstore/tagstore/services/config@v1.2.3-test", "pkg:golang/github.com/tagstore/tagstore/plugins/local@v1.2.3-test",
			"pkg:golang/github.com/tagstore/tagstore/core@v1.2.3-test", "pkg:golang/google.golang.org/grpc@", "pkg:golang/go.etcd.io/bbolt@", "pkg:golang/std@1.",
		},
		"order": {"pkg:golang/github.com/tagstore/tagstore/services/order@v1.2.3-test", "pkg:golang/github.com/aws/aws-sdk-go-v2@"},
	} {
		f, err := os.Open(filepath.Join(o.dir, service, runtime.GOARCH+".cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		var bom cdx.BOM
		err = cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(&bom)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		refs := map[string]cdx.Component{}
		for _, c := range *bom.Components {
			refs[c.BOMRef] = c
			if c.Version == "" || c.Version == "(devel)" {
				t.Errorf("%s has no version", c.BOMRef)
			}
			if c.Name != "std" && !strings.HasPrefix(c.Name+"/", module) && (c.Hashes == nil || len(*c.Hashes) != 1) {
				t.Errorf("%s has no sum", c.BOMRef)
			}
		}
		for _, w := range want {
			if !slices.ContainsFunc(*bom.Components, func(c cdx.Component) bool { return strings.HasPrefix(c.BOMRef, w) }) {
				t.Errorf("%s: %s is not in it", service, w)
			}
		}
		program := refs["pkg:golang/github.com/tagstore/tagstore/services/"+service+"@v1.2.3-test"]
		sum, err := sumOf(filepath.Join(rootOf(o.dir, service, runtime.GOARCH), "usr/local/bin/tagstore-"+service))
		if err != nil || program.Hashes == nil || (*program.Hashes)[0].Value != sum {
			t.Errorf("the program has %s, the bill says %+v, %v", sum, program.Hashes, err)
		}
	}
}
