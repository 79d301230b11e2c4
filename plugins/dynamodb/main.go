// Command tagstore-plugin-dynamodb is the storage plugin for Amazon DynamoDB.
// README.md has its options.
package main

import (
	"github.com/tagstore/tagstore/core/pluginmain"
	"github.com/tagstore/tagstore/plugins/dynamodb/dynamodbbackend"
)

// version is set by the linker.
var version = "unknown"

func main() {
	pluginmain.Serve(pluginmain.Plugin[dynamodbbackend.Options]{Name: "dynamodb", Version: version, Open: dynamodbbackend.Open})
}
