package emulators

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"
)

// got is what a call was answered.
type got struct {
	status int
	header http.Header
	body   []byte
}

// signature is the header of a signed request, with a signature of nobody.
func signature(service string) string {
	return "AWS4-HMAC-SHA256 Credential=emulator/20200101/us-east-1/" + service + "/aws4_request, SignedHeaders=host, Signature=0"
}

// try makes a call on a connection of its own, as an SDK would put it on the
// wire.
func try(ctx context.Context, method, url, service string, header map[string]string, body []byte) (got, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return got{}, err
	}
	q.Header.Set("Authorization", signature(service))
	for name, value := range header {
		q.Header.Set(name, value)
		if name == "Host" {
			q.Host = value
		}
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	a, err := client.Do(q)
	if err != nil {
		return got{}, err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	return got{status: a.StatusCode, header: a.Header, body: text}, err
}

// post makes a call of a service with a JSON protocol.
func post(t testing.TB, endpoint, service, target, body string) got {
	t.Helper()
	a, err := tryPost(t.Context(), endpoint, service, target, body)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	return a
}

func tryPost(ctx context.Context, endpoint, service, target, body string) (got, error) {
	return try(ctx, http.MethodPost, endpoint+"/", service, map[string]string{
		"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1",
	}, []byte(body))
}

// putParameter writes a parameter and returns its version.
func putParameter(t testing.TB, endpoint, name, value string) int {
	t.Helper()
	a := post(t, endpoint, "ssm", "AmazonSSM.PutParameter", parameter(name, value))
	var answer struct{ Version int }
	if err := json.Unmarshal(a.body, &answer); err != nil || a.status != http.StatusOK {
		t.Fatalf("PutParameter: %d %s", a.status, a.body)
	}
	return answer.Version
}

func parameter(name, value string) string {
	text, _ := json.Marshal(map[string]any{"Name": name, "Value": value, "Type": "String", "Overwrite": true})
	return string(text)
}

// version returns a parameter's version as the emulator has it, 0 if it has
// none.
func version(t testing.TB, endpoint, name string) int {
	t.Helper()
	a := post(t, endpoint, "ssm", "AmazonSSM.GetParameter", `{"Name":"`+name+`"}`)
	var answer struct{ Parameter struct{ Version int } }
	if err := json.Unmarshal(a.body, &answer); err != nil {
		t.Fatalf("GetParameter: %d %s", a.status, a.body)
	}
	return answer.Parameter.Version
}
