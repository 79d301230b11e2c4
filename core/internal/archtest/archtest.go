// Package archtest holds the dependency rules between the packages of this
// repository. The tables below are their documentation; its test asks the go
// command what every package imports and compares.
package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// Root is the path that every module of the repository starts with.
const Root = "github.com/tagstore/tagstore/"

// Package is what the go command says of one package, test files apart.
type Package struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// core is, for each package of the core module, what it may import from this
// repository outside its tests. A package that is not in it may not exist:
// adding one means deciding here what it may know. core/ itself imports
// nothing of any other module.
var core = map[string][]string{
	"config":    {},
	"settings":  {"config", "internal/nearest"},
	"telemetry": {"config"},
	"driver":    {"config"},
	"options":   {"config"},

	"memdriver":  {"config", "driver"},
	"records":    {"config", "driver"},
	"drivertest": {"config", "driver", "memdriver"}, // memdriver is Fuzz's oracle
	"keypath":    {"config"},
	"manifest":   {"config", "internal/nearest"},
	"storemap":   {"config", "keypath", "manifest"},
	"router":     {"config", "driver", "manifest"},
	"relay":      {"config", "driver"},
	"cache":      {"config", "driver", "relay"},
	"store":      {"cache", "config", "driver", "manifest", "router", "internal/strictjson"}, // never pluginhost: main composes

	"errgrpc":       {"config", "internal/gen/tagstore/error/v1"},
	"internal/wire": {"config", "driver", "errgrpc", "internal/gen/tagstore/backend/v1", "internal/gen/tagstore/error/v1"},

	"internal/exchange": {"internal/gen/tagstore/backend/v1", "internal/handshake"},

	// The two ends of the plugin protocol never import each other.
	"pluginmain": {"config", "driver", "options", "errgrpc", "internal/exchange", "internal/wire", "internal/gen/tagstore/backend/v1", "internal/handshake"},
	"pluginhost": {"config", "driver", "errgrpc", "internal/exchange", "internal/wire", "internal/gen/tagstore/backend/v1", "internal/handshake"},
	"plugintest": {"config", "driver", "drivertest", "pluginhost"},

	"auth":              {"config", "internal/strictjson"},
	"auth/devissuer":    {"auth", "config"},
	"auth/machinetoken": {"auth", "config", "settings"},
	"client":            {"config", "errgrpc", "gen/tagstore/v1"},
	"fanout":            {"client", "config"},

	"gen/tagstore/v1":                  {},
	"internal/gen/tagstore/backend/v1": {"internal/gen/tagstore/error/v1"},
	"internal/gen/tagstore/error/v1":   {},
	"internal/handshake":               {},
	"internal/nearest":                 {},
	"internal/strictjson":              {},
	"internal/archtest":                {},
}

// modules is what the packages of every other module may import from this
// repository outside their own module, tests apart. bench is not in it: it is
// outermost, may import anything, and nothing imports it.
var modules = map[string]struct{ may, mayNot []string }{
	// A plugin knows no other plugin, no cache, no tenant policy. What the AWS
	// plugins share is no plugin.
	"plugins/": {may: []string{"core/config", "core/driver", "core/keypath", "core/options", "core/records", "core/pluginmain", "plugins/internal/awsconn"}},
	// A service never imports a plugin or another service.
	"services/config": {may: []string{"core/", "internal/cloudmap"}, mayNot: []string{"core/pluginmain", "core/memdriver", "core/drivertest", "core/plugintest", "core/auth/devissuer"}},
	"services/order":  {may: []string{"core/auth", "core/client", "core/config", "core/settings", "core/telemetry"}},
	// What announces changes finds the replicas here.
	"internal/cloudmap": {may: []string{"core/config", "core/fanout"}},
	"cli":               {may: []string{"core/"}, mayNot: []string{"core/pluginmain", "core/plugintest", "core/store"}},
	// The pump stands for AWS: it knows where things lie, and no service.
	"emulators/pump": {may: []string{"core/config", "core/manifest", "core/storemap", "emulators", "internal/cloudmap"}},
	// What makes a release builds every program and knows none; it signs a manifest.
	"release": {may: []string{"core/manifest"}},
	// What deploys knows the templates, and speaks of keys and manifests; it runs no
	// part of the service.
	"deploy": {may: []string{"cloudformation", "core/config", "core/manifest"}},
	// The Lambda reads names and asks replicas; it never sees a value, a plugin
	// or a store.
	"refresh-lambda": {may: []string{
		"core/auth/machinetoken", "core/client", "core/config", "core/fanout", "core/keypath", "core/manifest", "core/settings", "core/storemap",
		"internal/cloudmap",
	}},
}

// inTests is what the tests of a module may import beside that. The emulators
// are for tests alone.
var inTests = map[string][]string{
	"plugins/": {
		"core/drivertest", "core/plugintest", "core/memdriver", "core/pluginhost",
		"core/manifest", "core/router", "core/store", // the manifests of a README are loaded, and served
		"emulators",
	},
	"services/":      {"core/", "emulators"},
	"internal/":      {"emulators"},
	"cli":            {"core/"},
	"deploy":         {"emulators"},
	"refresh-lambda": {"core/", "emulators"},
	"release":        {"core/", "emulators"},
}

// outside says which packages may import a library from elsewhere: the
// libraries that would spread otherwise. Tests are not held to it.
var outside = []struct {
	library string
	only    []string
}{
	{"github.com/aws/", []string{"plugins/", "services/order", "internal/cloudmap", "refresh-lambda", "emulators/pump", "deploy", "bench"}},
	{"github.com/aws/aws-dax-go-v2", []string{"plugins/dynamodb"}},
	{"github.com/dgraph-io/ristretto", []string{"core/cache", "bench"}},
	{"github.com/hashicorp/", []string{"core/pluginmain", "core/pluginhost", "core/plugintest", "core/internal/handshake"}},
	{"go.etcd.io/bbolt", []string{"plugins/local", "services/order", "bench"}},
	{"github.com/golang-jwt/", []string{"core/auth"}},
	{"github.com/go-jose/", []string{"core/auth/devissuer"}},
	{"golang.org/x/oauth2", []string{"core/auth/machinetoken"}},
	{"go.yaml.in/yaml", []string{"core/manifest", "bench/targets", "cloudformation"}},
	{"github.com/spf13/cobra", []string{"cli"}},
	{"github.com/google/go-containerregistry", []string{"release"}},
	{"github.com/CycloneDX/", []string{"release"}},
	{"github.com/google/jsonschema-go", []string{"core/options"}},
	{"google.golang.org/grpc", []string{
		"core/errgrpc", "core/internal/", "core/gen/", "core/pluginmain", "core/pluginhost", "core/plugintest",
		"core/client", "services/config", "bench",
	}},
	// Wire types stop at the wire.
	{Root + "core/internal/gen/tagstore/backend/v1", []string{"core/internal/", "core/pluginmain", "core/pluginhost"}},
	{Root + "core/internal/gen/tagstore/error/v1", []string{"core/internal/", "core/errgrpc"}},
	{Root + "core/gen/tagstore/v1", []string{"core/gen/", "core/client", "services/config/internal/server", "bench"}},
}

// Check returns every breach of the rules in packages, one line each.
func Check(packages []Package) []string {
	var breaches []string
	for _, p := range packages {
		name, ours := strings.CutPrefix(p.ImportPath, Root)
		if !ours {
			continue
		}
		for _, imp := range p.Imports {
			if rule := breach(name, imp); rule != "" {
				breaches = append(breaches, fmt.Sprintf("%s imports %s: %s", name, strings.TrimPrefix(imp, Root), rule))
			}
		}
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			if rule := testBreach(name, imp); rule != "" {
				breaches = append(breaches, fmt.Sprintf("tests of %s import %s: %s", name, strings.TrimPrefix(imp, Root), rule))
			}
		}
		if short, ok := strings.CutPrefix(name, "core/"); ok {
			if _, known := core[short]; !known && !strings.Contains(short, "testdata/") && !strings.Contains(short, "/testplugin") {
				breaches = append(breaches, name+" is not in the table: decide there what it may import")
			}
		}
	}
	slices.Sort(breaches)
	return slices.Compact(breaches)
}

func breach(name, imp string) string {
	for _, o := range outside {
		if within(imp, o.library) && !anyWithin(name, o.only) {
			return fmt.Sprintf("%s is only for %s", strings.TrimPrefix(o.library, Root), strings.Join(o.only, ", "))
		}
	}
	target, ours := strings.CutPrefix(imp, Root)
	if !ours || module(name) == "bench" {
		return ""
	}
	if module(target) == "bench" {
		return "nothing imports bench"
	}
	if module(name) == "core" {
		short := strings.TrimPrefix(name, "core/")
		target, inCore := strings.CutPrefix(target, "core/")
		if !inCore {
			return "core imports no other module"
		}
		if allowed, known := core[short]; known && !slices.Contains(allowed, target) {
			return fmt.Sprintf("it may import only %v", allowed)
		}
		return ""
	}
	if module(name) == module(target) {
		return ""
	}
	for where, rule := range modules {
		if within(name, where) {
			if !anyWithin(target, rule.may) || anyWithin(target, rule.mayNot) {
				return fmt.Sprintf("%s may import only %v, and not %v", where, rule.may, rule.mayNot)
			}
			return ""
		}
	}
	return "its module has no rule"
}

// testBreach holds tests to the module boundaries only.
func testBreach(name, imp string) string {
	target, ours := strings.CutPrefix(imp, Root)
	if !ours || module(name) == "bench" || module(name) == module(target) {
		return ""
	}
	for where, allowed := range inTests {
		if within(name, where) {
			if anyWithin(target, allowed) || breach(name, imp) == "" {
				return ""
			}
			return fmt.Sprintf("tests there may import only %v beside what the module may", allowed)
		}
	}
	if module(target) != "core" {
		return "a module knows no other module but core, in its tests either"
	}
	return ""
}

// module returns the module that a package belongs to: the first element of
// its path, or two where modules share a folder.
func module(name string) string {
	first, rest, _ := strings.Cut(name, "/")
	if first == "plugins" || first == "services" || first == "internal" {
		second, _, _ := strings.Cut(rest, "/")
		return first + "/" + second
	}
	return first
}

// within reports whether name is path or lies below it. A path that ends in
// '/' matches what lies below it only.
func within(name, path string) bool {
	if strings.HasSuffix(path, "/") {
		return strings.HasPrefix(name, path)
	}
	return name == path || strings.HasPrefix(name, path+"/")
}

func anyWithin(name string, paths []string) bool {
	return slices.ContainsFunc(paths, func(p string) bool { return within(name, p) })
}
