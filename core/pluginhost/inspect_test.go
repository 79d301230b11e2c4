package pluginhost_test

import (
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/options"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// A plugin says what it is without being configured: these options would have
// made its Open fail.
func TestInspectOpensNoStore(t *testing.T) {
	p := plugin(t)
	p.Options = []byte(`{"on_open":"error"}`)
	sockets := socketDir(t)
	d, err := pluginhost.Inspect(t.Context(), p, pluginhost.Options{SocketDir: sockets})
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "test" || d.Version != "v0.0.1" || d.Protocol != 1 || d.APIMinor < 1 {
		t.Errorf("it is %+v", d)
	}
	all, err := options.Read(d.OptionsSchema)
	if err != nil || len(all) == 0 || all[0].Name != "on_open" || all[0].Type != "string" {
		t.Errorf("its options are %v, %v", all, err)
	}
	if _, err := pluginhost.Start(t.Context(), p, pluginhost.Options{SocketDir: sockets}); err == nil {
		t.Error("the same options start")
	}
}

func TestInspectSaysWhatIsWrong(t *testing.T) {
	p := plugin(t)
	p.Args = []string{"exit"}
	if d, err := pluginhost.Inspect(t.Context(), p, pluginhost.Options{SocketDir: socketDir(t)}); err == nil {
		t.Errorf("it is %+v", d)
	} else if !strings.Contains(err.Error(), "the last words") {
		t.Errorf("the error does not show its log: %v", err)
	}
}

func TestRoundTripReachesThePlugin(t *testing.T) {
	p := start(t, plugin(t), pluginhost.Options{SocketDir: socketDir(t)})
	if err := p.RoundTrip(t.Context()); err != nil {
		t.Error(err)
	}
	if d := p.Description(); !d.Capabilities.Watch || d.Name != "test" {
		t.Errorf("it is %+v", d)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.RoundTrip(t.Context()); err == nil {
		t.Error("a closed plugin answers")
	}
}
