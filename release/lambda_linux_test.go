package main

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/emulators/lambdaruntime"
)

// madePackage is the package of the function for this machine's architecture,
// made once for all tests.
var madePackage = sync.OnceValues(func() (output, error) {
	if _, err := theCommand(); err != nil { // which makes dir
		return output{}, err
	}
	return made("lambda", filepath.Join(dir, "lambda"), "-arch", runtime.GOARCH, "-manifest", "release/testdata/function.yaml")
})

func thePackage(t *testing.T) (o output, at string) {
	t.Helper()
	o, err := madePackage()
	if err != nil {
		t.Fatal(err)
	}
	return o, filepath.Join(o.dir, "tagstore-refresh-"+runtime.GOARCH+".zip")
}

// unpacked is what Lambda makes of a package, as /var/task.
func unpacked(t *testing.T, at string) string {
	t.Helper()
	r, err := zip.OpenReader(at)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var names []string
	task := t.TempDir()
	for _, f := range r.File {
		names = append(names, fmt.Sprintf("%s %v", f.Name, f.Mode()))
		if !f.Modified.Equal(epoch) {
			t.Errorf("%s is of %v", f.Name, f.Modified)
		}
		from, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(from)
		from.Close()
		if err == nil {
			err = os.WriteFile(filepath.Join(task, f.Name), text, f.Mode())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"bootstrap -rwxr-xr-x", "tagstore.yaml -r--r--r--", "tagstore.yaml.sig -r--r--r--"}; !slices.Equal(names, want) {
		t.Errorf("the package has %q, want %q", names, want)
	}
	return task
}

func TestPackageIsSmallAndReproducible(t *testing.T) {
	t.Parallel()
	_, at := thePackage(t)
	first, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	if len(first) > maxPackage {
		t.Errorf("it has %s, more than %s", megabytes(int64(len(first))), megabytes(maxPackage))
	}
	t.Logf("the package has %s", megabytes(int64(len(first))))
	again := filepath.Join(t.TempDir(), "elsewhere") // of the same program: another test is of building that again
	if _, err := made("lambda", again, "-arch", runtime.GOARCH, "-manifest", "release/testdata/function.yaml"); err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(filepath.Join(again, filepath.Base(at))); err != nil || !bytes.Equal(first, second) {
		t.Errorf("made again it is another: %v", err)
	}
}

const machineSecret = "machine-secret-83b0"

// What is in the package runs behind the Runtime API, end to end: it verifies its
// manifest, fetches a token, and has the image of the configuration service read
// a value anew. A replica that has gone is an error, and so is a manifest that
// was changed.
func TestPackageRuns(t *testing.T) {
	t.Parallel()
	o, at := thePackage(t)
	task, images := unpacked(t, at), theImages(t)
	machine := devissuer.Machine{ClientID: "refresh", Secret: machineSecret}
	issuer, err := devissuer.New(devissuer.Options{ClientID: clientID, Machine: machine})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(issuer)
	t.Cleanup(server.Close)
	issuer.SetURL(server.URL)

	service := imageOf(t, images, "config", "TAGSTORE_MANIFEST_KEY="+images.publicKey(t), "TAGSTORE_LISTEN=127.0.0.1:0", "TAGSTORE_MANAGEMENT_LISTEN=127.0.0.1:0",
		"TAGSTORE_JWT_ISSUER="+issuer.Issuer(), "TAGSTORE_JWT_CLIENT_IDS="+clientID+","+machine.ClientID, "TAGSTORE_JWKS_URL="+issuer.JWKSURL(), "TAGSTORE_DRAIN_DELAY=0s").start(t)
	addresses := service.ready(t)
	var log lines
	options := lambdaruntime.Options{
		Binary: filepath.Join(task, "bootstrap"), Name: "tagstore-refresh", Output: &log, RetryDelays: []time.Duration{}, Timeout: deadline,
		Env: []string{
			"TAGSTORE_MANIFEST=" + filepath.Join(task, "tagstore.yaml"), "TAGSTORE_MANIFEST_KEY=" + o.publicKey(t), "TAGSTORE_REPLICAS=" + addresses["grpc"],
			"TAGSTORE_ACCOUNT=123456789012", "TAGSTORE_MACHINE_TOKEN_URL=" + issuer.TokenURL(), "TAGSTORE_MACHINE_CLIENT_ID=" + machine.ClientID,
			"TAGSTORE_MACHINE_CLIENT_SECRET=" + machine.Secret,
		},
	}
	event, err := os.ReadFile("../refresh-lambda/testdata/events/ssm-update.json")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	function, err := lambdaruntime.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Since(began)
	answer, err := function.Invoke(t.Context(), event)
	if err != nil || string(answer) != "null" {
		t.Errorf("the event is answered %s, %v\n%s", answer, err, &log)
	}
	t.Logf("cold start: %v from the program's start until it asks for an event, %v with the first event's work", start, time.Since(began))
	refreshed := regexp.MustCompile(`(?m)^rpc_server_call_duration\w*_count\{[^}]*"tagstore\.v1\.AdminService/Refresh"[^}]*\} 1$`)
	if text := metrics(t, addresses["management"]); !refreshed.MatchString(text) {
		t.Errorf("the service tells of no refresh:\n%s", text)
	}
	service.stop(t)
	var failed *lambdaruntime.FunctionError
	if answer, err := function.Invoke(t.Context(), event); !errors.As(err, &failed) || !strings.Contains(failed.Message, "1 of 1 replicas did not acknowledge") {
		t.Errorf("without a replica: %s, %v", answer, err)
	}
	if err := function.Close(); err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), machineSecret) {
		t.Error("the log holds the client's secret")
	}

	changed := filepath.Join(task, "tagstore.yaml")
	text, err := os.ReadFile(changed)
	if err == nil {
		err = os.Remove(changed) // the mode that it has is nobody's to write
	}
	if err == nil {
		err = os.WriteFile(changed, append(text, '\n'), fs.FileMode(0o444))
	}
	if err != nil {
		t.Fatal(err)
	}
	if f, err := lambdaruntime.Start(t.Context(), options); err == nil || !strings.Contains(err.Error(), "is not what was signed") {
		t.Errorf("with another manifest: %v", err)
		if f != nil {
			f.Close()
		}
	}
}
