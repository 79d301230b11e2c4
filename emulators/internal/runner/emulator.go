package runner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tagstore/tagstore/emulators/internal/probe"
)

// An emulator is one of the two servers: what it is made of, how it is
// installed, started and asked whether it is there.
type emulator struct {
	// Service has its name, and asks it whether it is there.
	probe.Service
	version string
	// installPin stands for what is installed; runPin for that and for how it
	// is started.
	installPin, runPin string
	needs              []need
	install            func(ctx context.Context, r *Runner, dir string) error
	// usable says whether what is installed in dir can still be run.
	usable  func(ctx context.Context, dir string) bool
	command func(dir string, port int) []string
}

// emulators returns both, as the files in r.Files pin them.
func (r *Runner) emulators() ([]emulator, error) {
	var requirements, server, pom, setup, logging []byte
	for _, file := range []struct {
		name string
		text *[]byte
	}{
		{"requirements.txt", &requirements},
		{"motoserver.py", &server},
		{"pom.xml", &pom},
		{"dynamodb-local.xml", &setup},
		{"log4j2.properties", &logging},
	} {
		var err error
		if *file.text, err = os.ReadFile(filepath.Join(r.Files, file.name)); err != nil {
			return nil, err
		}
	}
	moto := emulator{
		Service:    probe.Moto,
		version:    "moto " + between(string(requirements), "moto[server]==", "\n"),
		installPin: pin(requirements),
		needs:      []need{python},
		install:    installMoto,
		usable: func(ctx context.Context, dir string) bool {
			return exec.CommandContext(ctx, filepath.Join(dir, "bin", "python"), "-I", "-c", "import moto").Run() == nil
		},
		command: func(dir string, port int) []string {
			return []string{filepath.Join(dir, "bin", "python"), "-I", filepath.Join(r.Files, "motoserver.py"), strconv.Itoa(port)}
		},
	}
	moto.runPin = pin(requirements, server, environment())

	dynamodb := emulator{
		Service:    probe.DynamoDBLocal,
		version:    "DynamoDB Local " + between(string(pom), "<artifactId>DynamoDBLocal</artifactId>", "</version>"),
		installPin: pin(pom),
		needs:      []need{java, maven},
		install:    installDynamoDBLocal,
		usable: func(ctx context.Context, dir string) bool {
			found, err := filepath.Glob(filepath.Join(dir, "DynamoDBLocal-*.jar"))
			return err == nil && len(found) > 0 && java.find(ctx) != ""
		},
		command: func(dir string, port int) []string {
			return r.javaCommand(dir, strconv.Itoa(port))
		},
	}
	dynamodb.runPin = pin(pom, setup, logging, []byte(strings.Join((&Runner{}).javaCommand("", ""), " ")), environment())
	return []emulator{moto, dynamodb}, nil
}

// javaCommand starts DynamoDB Local from dir. The bound on the heap is far
// beyond what tests put there.
func (r *Runner) javaCommand(dir, port string) []string {
	return []string{
		"java", "-Xmx1g", "-XX:+UseSerialGC",
		"-Dlog4j.configurationFile=" + filepath.Join(r.Files, "log4j2.properties"),
		"-Dorg.eclipse.jetty.xml.XmlParser.Validating=false", // for which it would need the schema
		"-Djava.library.path=" + dir, "-cp", filepath.Join(dir, "*"),
		"org.eclipse.jetty.xml.XmlConfiguration", "port=" + port, filepath.Join(r.Files, "dynamodb-local.xml"),
	}
}

// environment is what the emulators are started with: nothing that would make
// them another thing on another machine, and no credentials of anybody. Many
// short threads would each keep a share of the memory that was freed, but for
// the bound on their number.
func environment() []byte {
	return []byte("MALLOC_ARENA_MAX=2\nLANG=C.UTF-8\nAWS_ACCESS_KEY_ID=emulator\nAWS_SECRET_ACCESS_KEY=emulator\nAWS_DEFAULT_REGION=us-east-1\nAWS_EC2_METADATA_DISABLED=true\nDDB_LOCAL_TELEMETRY=0")
}

// pin is a short name for the content of files.
func pin(files ...[]byte) string {
	h := sha256.New()
	for _, file := range files {
		fmt.Fprintf(h, "%d\n%s", len(file), file)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// between returns what is in text after the first from and before the to that
// follows, without spaces and tags.
func between(text, from, to string) string {
	_, rest, _ := strings.Cut(text, from)
	found, _, _ := strings.Cut(rest, to)
	return strings.TrimSpace(found[strings.LastIndexByte(found, '>')+1:])
}
