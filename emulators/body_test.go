package emulators

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// sdkBody is a body that can write itself, and says that it could not.
type sdkBody struct{ *strings.Reader }

func (sdkBody) Close() error { return nil }

func (sdkBody) WriteTo(io.Writer) (int64, error) { return 0, errors.New("closed") }

func TestPlainBodyIsReadOnly(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}))
	defer server.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL, sdkBody{strings.NewReader("whole")})
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = 5
	answer, err := (&http.Client{Transport: PlainBody{transport}}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if got, err := io.ReadAll(answer.Body); err != nil || string(got) != "whole" {
		t.Errorf("%q arrived, %v", got, err)
	}
}
