package s3backend

import (
	"bytes"
	"testing"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/plugintest"
	"github.com/tagstore/tagstore/plugins/internal/awsconn"
)

var claim = drivertest.Caps{Batch: true, History: true, Ping: true, MaxValue: defaults.MaxValue}

func suiteOptions(t testing.TB) Options {
	return Options{Bucket: newBucket(t), Options: awsconn.Options{Timeout: patience}}
}

func inProcess(t testing.TB) *drivertest.Harness {
	t.Helper()
	o := suiteOptions(t)
	reopen := func() (driver.Backend, error) { return Open(t.Context(), o) }
	b, err := reopen()
	if err != nil {
		t.Fatal(err)
	}
	peer := openStore(t, o)
	return &drivertest.Harness{Backend: b, Peer: peer, Reopen: reopen}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, claim, inProcess)
}

func TestConformanceOfTheProgram(t *testing.T) {
	t.Parallel()
	plugintest.Run(t, "..", func(t testing.TB) any { return suiteOptions(t) }, claim,
		plugintest.Durable(), plugintest.Shared(), plugintest.AWS())
}

// The largest value goes through the plugin's process and back.
func TestLargestValueThroughTheProgram(t *testing.T) {
	t.Parallel()
	h := plugintest.Open("..", func(t testing.TB) any { return suiteOptions(t) }, plugintest.AWS())(t)
	defer closeIt(t, h.Backend)
	value := make([]byte, defaults.MaxValue)
	for i := range value {
		value[i] = byte(i * i >> 8)
	}
	if _, err := h.Backend.Put(t.Context(), driver.PutRequest{ID: key, Value: value, ContentType: "application/octet-stream"}); err != nil {
		t.Fatal(err)
	}
	e, err := h.Backend.Get(t.Context(), key, 0)
	if err != nil || !bytes.Equal(e.Value, value) {
		t.Fatalf("%d bytes came back (%v)", len(e.Value), err)
	}
	page, err := h.Backend.List(t.Context(), driver.ListRequest{Tenant: key.Tenant, Service: key.Service})
	if err != nil || len(page.Entries) != 1 || !bytes.Equal(page.Entries[0].Value, value) {
		t.Fatalf("it is not listed as it is (%v)", err)
	}
}
