package pluginhost_test

import (
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// A plugin that says that it can exchange and can not is found out at its
// launch, and called the other way.
func TestPluginThatLiesAboutExchange(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"unimplemented", "mute", "end", "id", "kind", "empty", "nobody"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			log := &logBuffer{}
			pl := raw(t)
			pl.Args = []string{how}
			p := start(t, pl, pluginhost.Options{SocketDir: socketDir(t), Logger: log.logger()})
			if strings.Contains(log.String(), "says that it can exchange and can not") == *unary {
				t.Errorf("the log is %s", log)
			}
			for range 10 {
				if _, err := p.Get(t.Context(), id(t, "k"), 0); err != nil {
					t.Fatal(err)
				}
			}
			wantCode(t, errorOf(p.Get(t.Context(), id(t, "unavailable"), 0)), config.Unavailable)
			if s := p.Status(); s.Restarts != 0 || s.State != pluginhost.StateServing {
				t.Errorf("status is %+v", s)
			}
		})
	}
}

func errorOf(_ config.Entry, err error) error { return err }

// One that ends over it does not get through its launch.
func TestPluginThatDiesOverExchange(t *testing.T) {
	pl := raw(t)
	pl.Args = []string{"exit"}
	p, err := pluginhost.Start(t.Context(), pl, pluginhost.Options{SocketDir: socketDir(t)})
	if err == nil {
		p.Close()
	}
	if e := withCode(t, err, config.Unavailable); !strings.Contains(e.Message, "it ended (exit status 3) during the first call over a stream") {
		t.Errorf("got %v", e)
	}
}
