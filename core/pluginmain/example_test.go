package pluginmain_test

import (
	"context"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/memdriver"
	"github.com/tagstore/tagstore/core/pluginmain"
)

// memoryOptions are what a manifest may say under options: for this plugin.
type memoryOptions struct {
	MaxValue int `json:"max_value"`
}

// The whole main function of a plugin that keeps its values in memory.
func ExampleServe() {
	pluginmain.Serve(pluginmain.Plugin[memoryOptions]{
		Name: "memory", Version: "1.0.0",
		Open: func(_ context.Context, o memoryOptions) (driver.Backend, error) {
			if o.MaxValue == 0 {
				return memdriver.New(), nil
			}
			return memdriver.New(memdriver.WithMaxValue(o.MaxValue)), nil
		},
	})
}
