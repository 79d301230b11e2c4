package telemetry_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/telemetry"
)

func TestAskReady(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
	}))
	address := server.Listener.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	// A setting may name all addresses, which nobody can dial everywhere.
	for _, listen := range []string{address, "0.0.0.0:" + port, ":" + port, "[::]:" + port} {
		if err := telemetry.AskReady(t.Context(), listen); err != nil {
			t.Errorf("%s: %v", listen, err)
		}
	}
	status = http.StatusServiceUnavailable
	if err := telemetry.AskReady(t.Context(), address); config.CodeOf(err) != config.Unavailable {
		t.Errorf("not ready: %v", err)
	}
	server.Close()
	if err := telemetry.AskReady(t.Context(), address); config.CodeOf(err) != config.Unavailable {
		t.Errorf("gone: %v", err)
	}
	if err := telemetry.AskReady(t.Context(), "nonsense"); config.CodeOf(err) != config.InvalidArgument {
		t.Errorf("no address: %v", err)
	}
}
