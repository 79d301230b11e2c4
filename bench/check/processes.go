package check

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/tagstore/tagstore/bench/check/fault"
	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/bench/check/system"
	"github.com/tagstore/tagstore/bench/check/workload"
	"github.com/tagstore/tagstore/core/config"
)

// The subjects that run as in production, but for the network: replicas, their
// plugins and a token issuer are processes of this machine.
//
// A replica that was killed has forgotten what it acknowledged, and can not tell
// that a store lies about it: no replica is killed over a store that lies, and
// no store lies to a replica that may have been killed.
const (
	Processes         Subject = "processes"
	ProcessesLiedTo   Subject = "processes, store lies"
	ProcessesLocal    Subject = "processes, clients with caches"
	ProcessesStreams  Subject = "processes, Gets over streams"
	replicaKilledName         = "replica killed"
)

// Programs are what a run of Processes starts.
type Programs struct{ Config, Plugin string }

// Build builds the programs into dir.
func Build(ctx context.Context, dir string) (Programs, error) {
	p := Programs{Config: filepath.Join(dir, "tagstore-config"), Plugin: filepath.Join(dir, "plugin")}
	for program, pkg := range map[string]string{
		p.Config: "github.com/tagstore/tagstore/services/config", p.Plugin: "github.com/tagstore/tagstore/bench/check/plugin",
	} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", program, pkg)
		if out, err := cmd.CombinedOutput(); err != nil {
			return Programs{}, fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	}
	return p, nil
}

// processSettling is settling for processes: one that was stopped or killed
// takes longer to be itself again.
const processSettling = 8 * time.Second

// transit is what an event of a watch takes at most from the moment that its
// replica has it until the client has, on a busy machine. What lies in a buffer
// for longer would be taken for a breach.
const transit = 500 * time.Millisecond

// processKeys is how many keys of each tenant the processes are asked for.
const processKeys = 32

func tenants() []config.Tenant {
	var all []config.Tenant
	for _, id := range workload.IDs(1) {
		all = append(all, id.Tenant)
	}
	return all
}

// InProcesses runs one of the subjects above.
func InProcesses(ctx context.Context, subject Subject, programs Programs, replicas int, seed uint64, duration time.Duration) (_ Result, err error) {
	backend, network := fault.New(seed, latency), system.NewNetwork(seed)
	p, err := system.StartProcesses(ctx, system.ProcessOptions{
		Replicas: replicas, Backend: backend, Policy: policy, Config: programs.Config, Plugin: programs.Plugin, Tenants: tenants(),
		Local: subject == ProcessesLocal, Streams: subject == ProcessesStreams,
	})
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	nemeses := slices.Concat(workload.OfStore(backend), workload.OfNetwork(network), ofProcesses(ctx, p))
	nemeses = slices.DeleteFunc(nemeses, func(n workload.Nemesis) bool {
		if subject == ProcessesLiedTo {
			return n.Name == replicaKilledName
		}
		return n.Lies
	})
	r, err := run(ctx, subject, workload.Options{
		System: p, Truth: backend.Truth(), Network: network, Seed: seed, Duration: duration,
		Nemeses: nemeses, MaxStaleness: policy.MaxStaleness, Settling: processSettling, Patience: patience, Local: subject == ProcessesLocal, Transit: transit, Keys: processKeys, Pause: 2 * time.Millisecond,
	})
	if err != nil {
		return r, fmt.Errorf("%w\nthe end of replica 0's log:\n%s", err, tail(p.Logs(0), 2000))
	}
	return r, nil
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// ofProcesses are the ways in which processes are broken.
func ofProcesses(ctx context.Context, p *system.Processes) []workload.Nemesis {
	each := func(name string, begin func(replica int) (mend func() error, err error)) workload.Nemesis {
		return workload.Nemesis{
			Window: history.Window{Name: name, Excuses: true},
			Break:  func(random *rand.Rand) (func() error, error) { return begin(random.IntN(p.Replicas())) },
		}
	}
	return []workload.Nemesis{
		// It excuses nothing: whoever does not know of it must not notice.
		{Window: history.Window{Name: "manifest reloaded"}, Break: func(random *rand.Rand) (func() error, error) {
			return func() error { return nil }, p.ReloadReplica(random.IntN(p.Replicas()))
		}},
		each("plugin killed", func(r int) (func() error, error) {
			_ = p.KillPlugin(ctx, r) // a replica that is broken itself can not say which it is
			return func() error { return nil }, nil
		}),
		each("plugin stopped", func(r int) (func() error, error) {
			if resume, err := p.StopPlugin(ctx, r); err == nil {
				return resume, nil
			}
			return func() error { return nil }, nil // as above
		}),
		each("replica stopped", func(r int) (func() error, error) {
			resume, err := p.StopReplica(r)
			if err != nil {
				return func() error { return nil }, nil //nolint:nilerr // it has just been killed: there is nothing to stop
			}
			return resume, nil
		}),
		each(replicaKilledName, func(r int) (func() error, error) {
			restart, err := p.KillReplica(r)
			return func() error { return restart(ctx) }, err
		}),
	}
}

// programsIn builds the programs into a folder that is removed by the returned
// function.
func programsIn(ctx context.Context) (Programs, func(), error) {
	dir, err := os.MkdirTemp("", "check")
	if err != nil {
		return Programs{}, nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	p, err := Build(ctx, dir)
	if err != nil {
		remove()
		return Programs{}, nil, err
	}
	return p, remove, nil
}
