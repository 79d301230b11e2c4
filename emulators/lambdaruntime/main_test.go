package lambdaruntime_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// The test program is its own function: started by the runtime, it works at
// events instead of running tests.
func TestMain(m *testing.M) {
	if api := os.Getenv("AWS_LAMBDA_RUNTIME_API"); api != "" {
		function("http://" + api + "/2018-06-01/runtime/")
		return
	}
	goleak.VerifyTestMain(m)
}

// order is what a test asks of the function.
type order struct {
	Do     string // "echo", "fail", "exit", "hang", "env", "answer"
	Answer json.RawMessage
	// Records are a batch. Those that are not "ok" are reported as failed.
	Records []struct {
		Sequence, Do string
		Answer       json.RawMessage
	}
}

func function(root string) {
	if os.Getenv("INIT") == "fails" {
		post(root+"init/error", `{"errorType":"Settings","errorMessage":"MANIFEST: is required"}`)
		os.Exit(1)
	}
	for {
		resp, err := http.Get(root + "invocation/next")
		if err != nil {
			os.Exit(0)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			os.Exit(0)
		}
		id := resp.Header.Get("Lambda-Runtime-Aws-Request-Id")
		var o order
		if err := json.Unmarshal(body, &o); err != nil {
			o.Do = "fail"
		}
		switch o.Do {
		case "echo":
			post(root+"invocation/"+id+"/response", string(body))
		case "env":
			text, _ := json.Marshal(os.Environ())
			post(root+"invocation/"+id+"/response", string(text))
		case "answer":
			post(root+"invocation/"+id+"/response", string(o.Answer))
		case "exit":
			os.Exit(3)
		case "hang":
			select {}
		case "":
			post(root+"invocation/"+id+"/response", failures(o))
		default:
			post(root+"invocation/"+id+"/error", `{"errorType":"Refused","errorMessage":"as told"}`)
		}
	}
}

// failures answers a batch. "once" fails until the file MARK is there, which it
// makes.
func failures(o order) string {
	var ids []string
	for _, r := range o.Records {
		if r.Do == "answer" {
			return string(r.Answer)
		}
		if r.Do == "once" {
			if _, err := os.Stat(os.Getenv("MARK")); err == nil {
				continue
			}
			_ = os.WriteFile(os.Getenv("MARK"), nil, 0o600)
		}
		if r.Do != "ok" {
			ids = append(ids, fmt.Sprintf(`{"itemIdentifier":%q}`, r.Sequence))
		}
	}
	return `{"batchItemFailures":[` + strings.Join(ids, ",") + `]}`
}

func post(url, body string) {
	resp, err := http.Post(url, "application/json", bytes.NewReader([]byte(body)))
	if err != nil {
		os.Exit(0)
	}
	resp.Body.Close()
}
