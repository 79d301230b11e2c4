package latency

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// BenchmarkEtcd: etcd, if it is on the machine, at the same work as CachedGet: a
// value of 1 KiB by its key over gRPC, beside the same plain gRPC. The read is
// serializable: one member answers from what it has, as a replica does from its
// cache. It asks for no token, and has one more check to make for it.
func BenchmarkEtcd(b *testing.B) {
	program, err := exec.LookPath("etcd")
	if err != nil {
		leaveOut(b, "no etcd in PATH: install the distribution's etcd-server")
	}
	conn := dial(b, startEtcd(b, program))
	kv := etcdserverpb.NewKVClient(conn)
	key := []byte(keyName(0))
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second) // until it has a leader, itself
	defer cancel()
	if _, err := kv.Put(ctx, &etcdserverpb.PutRequest{Key: key, Value: value(0)}); err != nil {
		b.Fatal(err)
	}
	read := &etcdserverpb.RangeRequest{Key: key, Serializable: true}
	get := func(ctx context.Context) error {
		a, err := kv.Range(ctx, read)
		if err != nil {
			return err
		}
		return is(len(a.GetKvs()) == 1 && len(a.GetKvs()[0].GetValue()) == valueSize, "etcd has lost the value")
	}
	echo := dialEcho(b, startEchoTCP(b))
	request := &tagstorev1.GetRequest{Key: keyName(0)}
	bare := func(ctx context.Context) error { _, err := echo.Get(ctx, request); return err }
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { compare(b, callers, get, bare) })
	}
}

// startEtcd runs one member on loopback with its own defaults and returns its
// address. It is stopped when the benchmark ends.
func startEtcd(b *testing.B, program string) (address string) {
	b.Helper()
	address = goneReplica(b)
	client, peer := url.URL{Scheme: "http", Host: address}, url.URL{Scheme: "http", Host: goneReplica(b)}
	cmd := exec.CommandContext(context.Background(), program, // ended by the cleanup
		"--name", "bench", "--data-dir", b.TempDir(), "--log-level", "error",
		"--listen-client-urls", client.String(), "--advertise-client-urls", client.String(),
		"--listen-peer-urls", peer.String(), "--initial-advertise-peer-urls", peer.String(),
		"--initial-cluster", "bench="+peer.String())
	var said bytes.Buffer // read when the process has ended
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL) // nobody needs its data, and SIGTERM is how it ends, too
		_ = cmd.Wait()
		if b.Failed() {
			b.Logf("etcd: %s", &said)
		}
	})
	return address
}
