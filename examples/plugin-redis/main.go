// Command tagstore-plugin-redis is a storage plugin for Redis. README.md has its
// options.
package main

import (
	"example.com/tagstore-plugin-redis/redisbackend"

	"github.com/tagstore/tagstore/core/pluginmain"
)

// version is set by the linker.
var version = "unknown"

func main() {
	pluginmain.Serve(pluginmain.Plugin[redisbackend.Options]{Name: "redis", Version: version, Open: redisbackend.Open})
}
