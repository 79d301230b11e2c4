package server

import (
	"context"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/services/config/internal/intercept"
	"github.com/tagstore/tagstore/services/config/internal/peers"
)

// tell tells the other replicas of what a write has made, and returns which of
// them have it. The entry's own ID is what was written, whatever was asked.
func (s *configService) tell(ctx context.Context, written config.Entry, all bool) []*tagstorev1.ReplicaStatus {
	// Their logs have the change under the id of the call that made it.
	ctx = client.ContextWithRequestID(ctx, intercept.CallFrom(ctx).ID)
	told := s.peers.Tell(ctx, peers.Change{
		Tenant: written.ID.Tenant, Service: written.ID.Service, Key: written.ID.Key, Version: written.Version,
	}, all)
	out := make([]*tagstorev1.ReplicaStatus, len(told))
	for i, t := range told {
		out[i] = &tagstorev1.ReplicaStatus{Replica: t.Replica}
		if t.Err != nil {
			out[i].Error = toStatus(t.Err)
		}
	}
	return out
}
