package latency

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// echoSocket makes the test binary serve the baseline instead of testing: a
// plugin is another process, so what it is compared with must be one too.
const echoSocket = "TAGSTORE_BENCH_ECHO_SOCKET"

const valueSize = 1 << 10

func TestMain(m *testing.M) {
	if path := os.Getenv(echoSocket); path != "" {
		serveEcho(path)
		return
	}
	if len(os.Args) == 3 && os.Args[1] == residentRole {
		if err := hold(os.Args[2], os.Stdout); err != nil {
			panic(err)
		}
		return
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // of plugins in this process
	os.Exit(m.Run())
}

// echo is plain gRPC without anything of ours: it answers from memory what it
// was asked for, in messages of the same size as a backend's.
type echo struct {
	tagstorev1.UnimplementedConfigServiceServer
	value []byte
}

func (e echo) entry(key string) *tagstorev1.Entry {
	return &tagstorev1.Entry{Key: key, Value: e.value, ContentType: "application/json", Version: 1, Revision: "1", UpdatedBy: "bench"}
}

func (e echo) Get(_ context.Context, r *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
	return &tagstorev1.GetResponse{Entry: e.entry(r.GetKey())}, nil
}

func (e echo) BatchGet(_ context.Context, r *tagstorev1.BatchGetRequest) (*tagstorev1.BatchGetResponse, error) {
	results := make([]*tagstorev1.BatchGetResult, len(r.GetKeys()))
	for i, key := range r.GetKeys() {
		results[i] = &tagstorev1.BatchGetResult{Outcome: &tagstorev1.BatchGetResult_Entry{Entry: e.entry(key)}}
	}
	return &tagstorev1.BatchGetResponse{Results: results}, nil
}

func (e echo) List(_ context.Context, r *tagstorev1.ListRequest) (*tagstorev1.ListResponse, error) {
	entries := make([]*tagstorev1.Entry, r.GetPageSize())
	for i := range entries {
		entries[i] = e.entry(keyName(i))
	}
	return &tagstorev1.ListResponse{Entries: entries}, nil
}

func serveEcho(path string) {
	listener, err := net.Listen("unix", path)
	if err != nil {
		panic(err)
	}
	server := grpc.NewServer()
	tagstorev1.RegisterConfigServiceServer(server, echo{value: value(0)})
	go func() { // ends with the process: the pipe closes when the parent is gone
		_, _ = os.Stdin.Read(make([]byte, 1))
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		panic(err)
	}
}

// startEcho runs the baseline in a process of its own and returns a client.
func startEcho(b *testing.B) tagstorev1.ConfigServiceClient {
	b.Helper()
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(dir, "echo.sock")
	cmd := exec.CommandContext(context.Background(), os.Args[0]) // outlives b.Context, which ends before the cleanup
	cmd.Env = append(os.Environ(), echoSocket+"="+path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		conn.Close()
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
		os.RemoveAll(dir)
	})
	client := tagstorev1.NewConfigServiceClient(conn)
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	if _, err := client.Get(ctx, &tagstorev1.GetRequest{Key: keyName(0)}); err != nil {
		b.Fatal(err)
	}
	return client
}

// value is a JSON document of valueSize bytes.
func value(i int) []byte {
	head := `{"n":"` + keyName(i) + `","pad":"`
	return []byte(head + strings.Repeat("x", valueSize-len(head)-2) + `"}`)
}
