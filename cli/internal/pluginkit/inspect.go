package pluginkit

import (
	"context"
	"log/slog"

	"github.com/tagstore/tagstore/core/pluginhost"
)

// Inspect asks a plugin what it is. Only with open it opens a store, with the
// target's options: most plugins know what they can do from then on.
func Inspect(ctx context.Context, t Target, open bool, logger *slog.Logger) (d pluginhost.Description, err error) {
	s, err := t.newStore(logger)
	if err != nil {
		return d, err
	}
	defer func() {
		if left := s.remove(); err == nil {
			err = left
		}
	}()
	if !open {
		return pluginhost.Inspect(ctx, s.plugin(), s.host())
	}
	p, err := s.open(ctx)
	if err != nil {
		return d, err
	}
	return p.Description(), p.Close()
}
