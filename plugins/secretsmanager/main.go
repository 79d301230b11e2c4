// Command tagstore-plugin-secretsmanager is the storage plugin for AWS Secrets
// Manager. README.md has its options.
package main

import (
	"github.com/tagstore/tagstore/core/pluginmain"
	"github.com/tagstore/tagstore/plugins/secretsmanager/secretsbackend"
)

// version is set by the linker.
var version = "unknown"

func main() {
	pluginmain.Serve(pluginmain.Plugin[secretsbackend.Options]{Name: "secretsmanager", Version: version, Open: secretsbackend.Open})
}
