package client

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/errgrpc"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// GetOption asks something of the answer of a Get or BatchGet.
type GetOption func(*getOptions)

type getOptions struct {
	minVersion   *uint64
	maxStaleness *durationpb.Duration
}

// MinVersion asks for a version of the layer that the call's service names
// which is no older than this one, such as that of a Put which another replica
// answered. The service waits for it until shortly before the call's deadline,
// at most 5 s; then the error is Unavailable, and its Version is the one that
// is there. 0 and a BatchGet are InvalidArgument.
func MinVersion(version uint64) GetOption {
	return func(o *getOptions) { o.minVersion = &version }
}

// MaxStaleness asks for an answer that was read from its store no longer ago
// than this, from 0, which reads the store's own truth, to 24 h. Without it the
// key's route decides.
func MaxStaleness(age time.Duration) GetOption {
	return func(o *getOptions) { o.maxStaleness = durationpb.New(age) }
}

func newGetOptions(opts []GetOption) (o getOptions) {
	for _, set := range opts {
		set(&o)
	}
	return o
}

// WriteOption asks something of a Put, Delete, Restore or Rollback.
type WriteOption func(*writeOptions)

type writeOptions struct {
	await    bool
	replicas *[]ReplicaStatus
}

// AwaitReplicas lets the call answer when every healthy replica has the change
// or its deadline is near, instead of after a moment. The write is the same
// either way, and is there whatever becomes of the waiting.
func AwaitReplicas() WriteOption {
	return func(o *writeOptions) { o.await = true }
}

// Replicas sets into to what the answer says of the other replicas, as far as
// they are known. The one that answered has the change. It is not set by a call
// that failed.
func Replicas(into *[]ReplicaStatus) WriteOption {
	return func(o *writeOptions) { o.replicas = into }
}

// ReplicaStatus says whether one replica has a change.
type ReplicaStatus struct {
	Replica string
	// Err is nil if it has, else why that is not known. It will have it within
	// the staleness that the key's route allows.
	Err error
}

func newWriteOptions(opts []WriteOption) (o writeOptions) {
	for _, set := range opts {
		set(&o)
	}
	return o
}

func replicasFromWire(wire []*tagstorev1.ReplicaStatus) []ReplicaStatus {
	out := make([]ReplicaStatus, len(wire))
	for i, r := range wire {
		out[i].Replica = r.GetReplica()
		if r.GetError() == nil {
			continue
		}
		err := errgrpc.FromStatus(statusFromWire(r.GetError()))
		if err == nil {
			err = config.Errorf(config.Internal, "the service answered with an error that is none")
		}
		out[i].Err = err
	}
	return out
}
