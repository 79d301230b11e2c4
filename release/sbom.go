package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// subject is what a bill of materials is of.
type subject struct {
	kind, name, version string
	digest              string // "sha256:" and hex digits, or ""
}

// materials returns the bill of materials, in CycloneDX's JSON, of what holds
// these programs: each of them with its sum, and every module that was linked
// into it, as the Go command noted in the program itself. Nothing else is in an
// image but the authorities' certificates, which are in it as well.
func materials(of subject, version string, binaries []string) ([]byte, error) {
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: epoch.Format("2006-01-02T15:04:05Z"),
		Component: &cdx.Component{BOMRef: of.name, Type: cdx.ComponentType(of.kind), Name: of.name, Version: of.version},
	}
	if sum, ok := strings.CutPrefix(of.digest, "sha256:"); ok {
		bom.Metadata.Component.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}}
	}
	components := map[string]cdx.Component{}
	edges := map[string][]string{of.name: nil}
	for _, path := range binaries {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, err
		}
		sum, err := sumOf(path)
		if err != nil {
			return nil, err
		}
		name := info.Path
		ref := "pkg:golang/" + name + "@" + version
		components[ref] = cdx.Component{
			BOMRef: ref, Type: cdx.ComponentTypeApplication, Name: name, Version: version, PackageURL: ref,
			Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}},
		}
		edges[of.name] = append(edges[of.name], ref)
		modules := append([]*debug.Module{{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}}, info.Deps...)
		for _, m := range modules {
			c, err := library(m, version)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
			}
			components[c.BOMRef] = c
			edges[ref] = append(edges[ref], c.BOMRef)
		}
	}
	list := []cdx.Component{}
	var dependencies []cdx.Dependency
	for _, c := range components {
		list = append(list, c)
	}
	for ref, on := range edges {
		slices.Sort(on)
		on = slices.Compact(on)
		dependencies = append(dependencies, cdx.Dependency{Ref: ref, Dependencies: &on})
	}
	slices.SortFunc(list, func(a, b cdx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })
	slices.SortFunc(dependencies, func(a, b cdx.Dependency) int { return cmp.Compare(a.Ref, b.Ref) })
	bom.Components, bom.Dependencies = &list, &dependencies
	var out bytes.Buffer
	encoder := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON)
	encoder.SetPretty(true)
	err := encoder.EncodeVersion(bom, cdx.SpecVersion1_6)
	return out.Bytes(), err
}

// library is a module that was linked in. Those of this repository have the
// version of the release and no sum.
func library(m *debug.Module, version string) (cdx.Component, error) {
	if m.Replace != nil {
		m = &debug.Module{Path: m.Path, Version: cmp.Or(m.Replace.Version, m.Version), Sum: m.Replace.Sum}
	}
	v := m.Version
	if strings.HasPrefix(m.Path+"/", module) {
		v = version
	}
	ref := "pkg:golang/" + m.Path + "@" + v
	c := cdx.Component{BOMRef: ref, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: v, PackageURL: ref, Scope: cdx.ScopeRequired}
	if sum, ok := strings.CutPrefix(m.Sum, "h1:"); ok { // that of the module's files, as in go.sum
		raw, err := base64.StdEncoding.DecodeString(sum)
		if err != nil {
			return c, fmt.Errorf("the sum of %s: %w", m.Path, err)
		}
		c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(raw)}}
	}
	return c, nil
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
