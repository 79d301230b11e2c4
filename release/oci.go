package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The label and annotation names of the OCI image specification.
const ociName = "org.opencontainers.image."

// makeLayouts writes for each service an OCI layout with an index of all
// architectures, and for each image a bill of materials beside it.
func makeLayouts(s settings, all []built, stdout io.Writer) error {
	indexes := map[string]v1.ImageIndex{}
	for _, b := range all {
		img, err := b.oci(s)
		if err != nil {
			return err
		}
		index := indexes[b.service]
		if index == nil {
			index = mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
		}
		indexes[b.service] = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: b.arch}},
		})
		bom, err := materials(subject{"container", "tagstore/" + b.service, s.version, b.digest}, s.version, append([]string{b.binary}, b.plugins...))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.out, b.service, b.arch+".cdx.json"), bom, 0o644); err != nil { //nolint:gosec // it is for everybody
			return err
		}
	}
	for _, i := range images() {
		dir := filepath.Join(s.out, i.service, "oci")
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		to, err := layout.Write(dir, empty.Index)
		if err == nil {
			err = to.AppendIndex(indexes[i.service], layout.WithAnnotations(map[string]string{ociName + "ref.name": s.version}))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		digest, err := indexes[i.service].Digest()
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%s  %s\n", digest, dir)
	}
	return nil
}

// oci is the image of a tree: one layer, and what the Dockerfile says of it.
func (b built) oci(s settings) (v1.Image, error) {
	var layerTar bytes.Buffer
	if err := b.tree.tar(&layerTar); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layerTar.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{
		Layer:     layer,
		MediaType: types.OCILayer,
		History:   v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "scripts/image-root"},
	})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", b.arch, v1.Time{Time: epoch}
	config.Config = b.config(s)
	return mutate.ConfigFile(img, config)
}

// The pauses of the health check, as in the stack.
const (
	healthInterval    = 10 * time.Second
	healthTimeout     = 5 * time.Second
	healthStartPeriod = 60 * time.Second
	healthRetries     = 3
)

func (i image) config(s settings) v1.Config {
	c := v1.Config{
		User: user, Entrypoint: []string{i.entrypoint()}, Env: i.env, WorkingDir: "/", StopSignal: "SIGTERM",
		ExposedPorts: map[string]struct{}{}, Volumes: map[string]struct{}{},
		Healthcheck: &v1.HealthConfig{
			Test:     []string{"CMD", i.entrypoint(), "-healthcheck"},
			Interval: healthInterval, Timeout: healthTimeout, StartPeriod: healthStartPeriod, Retries: healthRetries,
		},
		Labels: map[string]string{
			ociName + "title":    "tagstore-" + i.service,
			ociName + "version":  s.version,
			ociName + "revision": s.commit,
			ociName + "licenses": "Apache-2.0",
		},
	}
	for _, port := range i.ports {
		c.ExposedPorts[port] = struct{}{}
	}
	for _, volume := range i.volumes {
		c.Volumes[volume] = struct{}{}
	}
	return c
}
