// Command tagstore-plugin-ssm is the storage plugin for AWS Systems Manager
// Parameter Store. README.md has its options.
package main

import (
	"github.com/tagstore/tagstore/core/pluginmain"
	"github.com/tagstore/tagstore/plugins/ssm/ssmbackend"
)

// version is set by the linker.
var version = "unknown"

func main() {
	pluginmain.Serve(pluginmain.Plugin[ssmbackend.Options]{Name: "ssm", Version: version, Open: ssmbackend.Open})
}
