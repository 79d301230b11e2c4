package pluginhost

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/handshake"
)

// protocol is one version of the plugin protocol that this host speaks. Calls
// are written for the newest; the client of an older one translates.
type protocol struct {
	version int
	client  func(grpc.ClientConnInterface) backendv1.BackendServiceClient
}

// protocols are what this host offers, the newest first: the version of this
// release and, once there is one, that of the release before it.
var protocols = []protocol{{version: handshake.ProtocolVersion, client: backendv1.NewBackendServiceClient}}

func pluginSets(all []protocol) map[int]plugin.PluginSet {
	sets := make(map[int]plugin.PluginSet, len(all))
	for _, p := range all {
		sets[p.version] = plugin.PluginSet{handshake.PluginName: connPlugin{}}
	}
	return sets
}

// clientOf returns the client of a version that was negotiated out of all.
func clientOf(all []protocol, version int, conn grpc.ClientConnInterface) backendv1.BackendServiceClient {
	for _, p := range all {
		if p.version == version {
			return p.client(conn)
		}
	}
	panic(fmt.Sprintf("pluginhost: version %d was not offered", version))
}

func speaks(all []protocol, version string) bool {
	for _, p := range all {
		if strconv.Itoa(p.version) == version {
			return true
		}
	}
	return false
}

// numbers lists the versions for people.
func numbers(all []protocol) string {
	list := make([]string, len(all))
	for i, p := range all {
		list[i] = strconv.Itoa(p.version)
	}
	return strings.Join(list, ", ")
}
