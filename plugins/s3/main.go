// Command tagstore-plugin-s3 is the storage plugin for Amazon S3: large
// documents as objects of a versioned bucket. README.md has its options.
package main

import (
	"github.com/tagstore/tagstore/core/pluginmain"
	"github.com/tagstore/tagstore/plugins/s3/s3backend"
)

// version is set by the linker.
var version = "unknown"

func main() {
	pluginmain.Serve(pluginmain.Plugin[s3backend.Options]{Name: "s3", Version: version, Open: s3backend.Open})
}
