// Command tagstore-plugin-local is the storage plugin for the embedded default
// store: one bbolt file. README.md has its options.
package main

import (
	"os/signal"
	"syscall"

	"github.com/tagstore/tagstore/core/pluginmain"
	"github.com/tagstore/tagstore/plugins/local/localbackend"
)

// version is set by the linker.
var version = "unknown"

func main() {
	// A file that reaches the process's size limit is a failed write, not the
	// end of the process (setrlimit(2), RLIMIT_FSIZE).
	signal.Ignore(syscall.SIGXFSZ)
	pluginmain.Serve(pluginmain.Plugin[localbackend.Options]{Name: "local", Version: version, Open: localbackend.Open})
}
