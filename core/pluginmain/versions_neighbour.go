//go:build tagstore_neighbour

package pluginmain

import (
	"os"
	"strconv"
	"strings"

	"github.com/tagstore/tagstore/core/internal/handshake"
)

// A plugin that is built with this tag offers the versions that its last
// argument lists, "-protocol=2,1", each with today's service: it stands for one
// of another release where the negotiation is tested.
func init() {
	list, ok := strings.CutPrefix(os.Args[len(os.Args)-1], "-protocol=")
	if !ok {
		return
	}
	os.Args = os.Args[:len(os.Args)-1]
	service := protocols[0].register
	protocols = nil
	for _, number := range strings.Split(list, ",") {
		n, err := strconv.Atoi(number)
		if err != nil {
			panic(handshake.PluginName + ": no version: " + number)
		}
		protocols = append(protocols, protocol{version: n, register: service})
	}
}
