package pluginmain

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
	"github.com/tagstore/tagstore/core/internal/handshake"
)

// protocol is one version of the plugin protocol that this end speaks. The
// server is written for the newest; the service of an older one translates.
type protocol struct {
	version  int
	register func(grpc.ServiceRegistrar, backendv1.BackendServiceServer)
}

// protocols are what this end offers, the newest first: the version of this
// release and, once there is one, that of the release before it.
var protocols = []protocol{{version: handshake.ProtocolVersion, register: backendv1.RegisterBackendServiceServer}}

func pluginSets(s *server) map[int]plugin.PluginSet {
	sets := make(map[int]plugin.PluginSet, len(protocols))
	for _, p := range protocols {
		sets[p.version] = plugin.PluginSet{handshake.PluginName: &grpcPlugin{server: s, protocol: p}}
	}
	return sets
}

// warnOfVersions says which versions both ends have if none is the same: the
// handshake has room for one of this end only. The host refuses it then, and
// quotes this line.
func warnOfVersions(offered string) {
	host := strings.FieldsFunc(offered, func(r rune) bool { return r == ',' })
	slices.SortFunc(host, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(b, a)) }) // as numbers, the newest first
	var mine []string
	for _, p := range protocols {
		n := strconv.Itoa(p.version)
		if slices.Contains(host, n) {
			return
		}
		mine = append(mine, n)
	}
	//nolint:gosec,sloglint // what the host said goes back to it, in the one part of a line that it quotes
	slog.Error(fmt.Sprintf("no common version of the plugin protocol: this plugin speaks %s, its host %s", strings.Join(mine, ", "), strings.Join(host, ", ")))
}
