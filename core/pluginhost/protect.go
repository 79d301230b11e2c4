package pluginhost

import (
	"os"

	"github.com/tagstore/tagstore/core/config"
)

// CheckUser refuses to run as root: a plugin has all the rights of its host, and
// nothing that Protect does holds root back. allowRoot lets it pass, for
// development.
func CheckUser(allowRoot bool) error {
	if allowRoot || os.Geteuid() != 0 {
		return nil
	}
	return config.Errorf(config.FailedPrecondition, "a host of plugins runs as root, and so would every plugin").
		WithHint("run it as a user of its own")
}
