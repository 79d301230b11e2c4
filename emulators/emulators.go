// Package emulators gives tests the emulators of AWS that `make emulators`
// runs on this machine: moto for most services, and Amazon DynamoDB Local. It
// is for test code only.
//
// Both are shared by all tests that run at the same time, of every module. A
// test keeps to names of its own, which [Name] makes, and never resets an
// emulator. [NewProxy] puts faults between a test and an emulator.
package emulators

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tagstore/tagstore/emulators/internal/probe"
	"github.com/tagstore/tagstore/emulators/internal/state"
)

// answerLimit is how long an emulator that takes connections may take to
// answer: long, since the machine may be busy with other tests.
const answerLimit = 30 * time.Second

// Moto returns the base URL of the running moto server, without a slash at its
// end. It fails the test where there is none that answers.
//
// TAGSTORE_MOTO_URL, if set, names another one to use.
func Moto(t testing.TB) string {
	t.Helper()
	endpoint, err := MotoURL(t.Context())
	if err != nil {
		t.Fatalf("%v", err)
	}
	return endpoint
}

// DynamoDBLocal returns the base URL of the running Amazon DynamoDB Local,
// without a slash at its end. It fails the test where there is none that
// answers.
//
// TAGSTORE_DYNAMODB_LOCAL_URL, if set, names another one to use.
func DynamoDBLocal(t testing.TB) string {
	t.Helper()
	endpoint, err := DynamoDBLocalURL(t.Context())
	if err != nil {
		t.Fatalf("%v", err)
	}
	return endpoint
}

// MotoURL is [Moto] where no test runs yet: in TestMain.
func MotoURL(ctx context.Context) (string, error) {
	return find(ctx, "TAGSTORE_MOTO_URL", probe.Moto)
}

// DynamoDBLocalURL is [DynamoDBLocal] where no test runs yet: in TestMain.
func DynamoDBLocalURL(ctx context.Context) (string, error) {
	return find(ctx, "TAGSTORE_DYNAMODB_LOCAL_URL", probe.DynamoDBLocal)
}

// find returns the endpoint that variable names, or else the one that the
// starter recorded, once it has answered.
func find(ctx context.Context, variable string, service probe.Service) (string, error) {
	if named := os.Getenv(variable); named != "" {
		u, err := url.Parse(named)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return "", fmt.Errorf("%s is not the URL of a server: %q", variable, named)
		}
		endpoint := strings.TrimRight(named, "/")
		if err := answers(ctx, service, endpoint); err != nil {
			return "", fmt.Errorf("no %s at %s, which %s names: %w", service.Name, endpoint, variable, err)
		}
		return endpoint, nil
	}
	dir, err := folder()
	if err != nil {
		return "", err
	}
	running, err := state.Read(dir)
	if err != nil {
		return "", err
	}
	p, ok := running[service.Name]
	if !ok {
		return "", fmt.Errorf("the AWS emulators are not running: run `make emulators` (%s was not started)", service.Name)
	}
	if err := answers(ctx, service, p.Endpoint); err != nil {
		return "", fmt.Errorf("the AWS emulators are not running: run `make emulators` (%s: %w)", service.Name, err)
	}
	return p.Endpoint, nil
}

// folder returns where the starter keeps its state: below the root of the
// repository that this process works in, which is the folder of go.work.
func folder() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.work")); err == nil {
			return filepath.Join(at, state.Dir), nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%s is not in a clone of the repository: no go.work is above it", dir)
		}
	}
}

// answers waits for an answer of the service at endpoint, but not where nobody
// takes connections, or somebody else does.
func answers(ctx context.Context, service probe.Service, endpoint string) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := service.Answers(ctx, endpoint)
		if err == nil || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, probe.ErrOther) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// Environ returns the environment variables, as NAME=VALUE, that send every
// AWS SDK of a process to endpoint and to nothing else: with credentials of
// nobody, no files of the user, no instance metadata. They override what the
// process was given; an empty value unsets.
func Environ(endpoint string) []string {
	return []string{
		"AWS_ENDPOINT_URL=" + endpoint,
		"AWS_REGION=us-east-1",
		"AWS_DEFAULT_REGION=us-east-1",
		// Letters and digits only: DynamoDB Local refuses others.
		"AWS_ACCESS_KEY_ID=emulator",
		"AWS_SECRET_ACCESS_KEY=emulator",
		"AWS_SESSION_TOKEN=",
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
		"AWS_PROFILE=",
		"AWS_DEFAULT_PROFILE=",
		"AWS_ROLE_ARN=",
		"AWS_WEB_IDENTITY_TOKEN_FILE=",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=",
		"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=",
		"AWS_ENDPOINT_URL_DYNAMODB=",
		"AWS_ENDPOINT_URL_DYNAMODB_STREAMS=",
		"AWS_ENDPOINT_URL_S3=",
		"AWS_ENDPOINT_URL_SECRETS_MANAGER=",
		"AWS_ENDPOINT_URL_SERVICEDISCOVERY=",
		"AWS_ENDPOINT_URL_SSM=",
		"AWS_ENDPOINT_URL_STS=",
		"AWS_CA_BUNDLE=",
	}
}

// Setenv sets what [Environ] returns in this process: for TestMain. A test uses
// t.Setenv, or passes a configuration.
func Setenv(endpoint string) error {
	for _, variable := range Environ(endpoint) {
		name, value, _ := strings.Cut(variable, "=")
		set := os.Setenv
		if value == "" {
			set = func(name, _ string) error { return os.Unsetenv(name) }
		}
		if err := set(name, value); err != nil {
			return err
		}
	}
	return nil
}
