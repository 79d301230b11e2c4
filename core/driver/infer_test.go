package driver_test

import (
	"errors"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

func TestInferType(t *testing.T) {
	for value, want := range map[string]string{
		`{"a":1}`: "application/json", `30`: "application/json", ` "x" `: "application/json", `null`: "application/json",
		"plain": "text/plain; charset=utf-8", "{'a':1}": "text/plain; charset=utf-8", "ä": "text/plain; charset=utf-8",
		"": "text/plain; charset=utf-8", "\xff": "application/octet-stream", "\x00\xc3": "application/octet-stream",
	} {
		if got := driver.InferType([]byte(value)); got != want {
			t.Errorf("the type of %q is %q, want %q", value, got, want)
		}
	}
}

func TestCheckInferredType(t *testing.T) {
	for contentType, ok := range map[string]bool{
		"": true, "application/json": true, "application/json; charset=utf-8": true, "text/plain": true, "text/html; charset=utf-8": true,
		"application/octet-stream": true, "image/png": false, "application/yaml": false, "application/merge-patch+json": false,
		"text": false, "text/": false, "nonsense": false, "text/plain; charset": false,
	} {
		err := driver.CheckInferredType(contentType)
		if ok != (err == nil) || err != nil && !errors.Is(err, config.InvalidArgument) {
			t.Errorf("%q: %v", contentType, err)
		}
	}
}

func TestCaveatNames(t *testing.T) {
	if names := (driver.Caveats{}).Names(); len(names) != 0 {
		t.Errorf("no caveats are called %q", names)
	}
	all := driver.Caveats{
		LooseCompareAndSet: true, PermanentDelete: true, Unattributed: true, InferredType: true, NonEmpty: true, TextOnly: true, EventualReads: true,
	}
	if names := all.Names(); len(names) != 7 || names[0] != "eventual_reads" || names[6] != "unattributed" {
		t.Errorf("all caveats are called %q", names)
	}
}
