// Command plugin is a storage plugin whose store lives in the process that
// checks it: see package origin.
package main

import (
	"github.com/tagstore/tagstore/bench/check/origin"
	"github.com/tagstore/tagstore/core/pluginmain"
)

func main() {
	pluginmain.Serve(pluginmain.Plugin[origin.Options]{Name: "origin", Version: "v0", Open: origin.Open})
}
