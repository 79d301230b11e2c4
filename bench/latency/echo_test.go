package latency

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tagstore/tagstore/core/auth"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/pluginmain"
)

// echoRole makes the test binary serve the baseline instead of testing: a
// plugin is another process, so what it is compared with must be one too.
const echoRole = "echo"

const valueSize = 1 << 10

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case echoRole:
			serveEcho(os.Args[2:])
			return
		case filesRole:
			pluginmain.Serve(pluginmain.Plugin[filesOptions]{Name: "files", Version: "v0.0.0", Open: openFiles})
		case memoryRole:
			serveMemory()
		case bareRole:
			if err := serveBare(os.Stdin, os.Stdout); err != nil {
				panic(err)
			}
			return
		case residentRole:
			if err := hold(os.Args[2], os.Stdout); err != nil {
				panic(err)
			}
			return
		}
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // of plugins in this process
	flag.Parse()
	if f := flag.Lookup("test.bench"); f != nil && f.Value.String() != "" {
		if raceDetector {
			fmt.Fprintln(os.Stderr, "latency: the race detector is on, and what it measures is itself: run the benchmarks without -race")
			os.Exit(1)
		}
		sayLoad(os.Stdout)
	}
	os.Exit(m.Run())
}

// echo is plain gRPC without anything of ours: it answers from memory what it
// was asked for, in messages of the same size as a backend's.
type echo struct {
	tagstorev1.UnimplementedConfigServiceServer
	value []byte

	mu      sync.Mutex
	watches map[chan<- *tagstorev1.WatchResponse]<-chan struct{} // which is closed at the stream's end
}

func (e *echo) entry(key string) *tagstorev1.Entry {
	return &tagstorev1.Entry{Key: key, Value: e.value, ContentType: "application/json", Version: 1, Revision: "1", UpdatedBy: "bench"}
}

func (e *echo) Get(_ context.Context, r *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
	return &tagstorev1.GetResponse{Entry: e.entry(r.GetKey())}, nil
}

func (e *echo) BatchGet(_ context.Context, r *tagstorev1.BatchGetRequest) (*tagstorev1.BatchGetResponse, error) {
	results := make([]*tagstorev1.BatchGetResult, len(r.GetKeys()))
	for i, key := range r.GetKeys() {
		results[i] = &tagstorev1.BatchGetResult{Outcome: &tagstorev1.BatchGetResult_Entry{Entry: e.entry(key)}}
	}
	return &tagstorev1.BatchGetResponse{Results: results}, nil
}

func (e *echo) List(_ context.Context, r *tagstorev1.ListRequest) (*tagstorev1.ListResponse, error) {
	entries := make([]*tagstorev1.Entry, r.GetPageSize())
	for i := range entries {
		entries[i] = e.entry(keyName(i))
	}
	return &tagstorev1.ListResponse{Entries: entries}, nil
}

// Put hands the change to every stream, as fast as they take it.
func (e *echo) Put(_ context.Context, r *tagstorev1.PutRequest) (*tagstorev1.PutResponse, error) {
	event := &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Put{Put: e.entry(r.GetKey())}, ResumeToken: "token"}
	e.mu.Lock()
	defer e.mu.Unlock()
	for events, ended := range e.watches {
		select {
		case events <- event:
		case <-ended:
		}
	}
	return &tagstorev1.PutResponse{Entry: &tagstorev1.Entry{Key: r.GetKey(), Version: 1}}, nil
}

// Watch answers as many values as the key prefix says, where it says a number, a
// sync mark, and then what is put.
func (e *echo) Watch(r *tagstorev1.WatchRequest, stream grpc.ServerStreamingServer[tagstorev1.WatchResponse]) error {
	values, _ := strconv.Atoi(r.GetKeyPrefix())
	for i := range values {
		put := &tagstorev1.WatchResponse_Put{Put: e.entry(keyName(i))}
		if err := stream.Send(&tagstorev1.WatchResponse{Event: put, ResumeToken: "token"}); err != nil {
			return err
		}
	}
	events := make(chan *tagstorev1.WatchResponse, 16)
	e.mu.Lock()
	e.watches[events] = stream.Context().Done()
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watches, events)
	}()
	events <- &tagstorev1.WatchResponse{Event: &tagstorev1.WatchResponse_Sync{Sync: &tagstorev1.WatchSync{}}, ResumeToken: "token"}
	for {
		select {
		case event := <-events:
			if err := stream.Send(event); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// serveEcho serves on the listener that the parent has handed down. With an
// issuer, a client id and a JWKS URL it verifies the token of every call.
func serveEcho(args []string) {
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		panic(err)
	}
	var options []grpc.ServerOption
	if len(args) == 3 {
		verifier, err := auth.NewVerifier(auth.Options{Issuer: args[0], ClientIDs: args[1:2], JWKSURL: args[2]})
		if err != nil {
			panic(err)
		}
		options = append(options, grpc.UnaryInterceptor(checkToken(verifier)))
	}
	server := grpc.NewServer(options...)
	tagstorev1.RegisterConfigServiceServer(server, &echo{value: value(0), watches: map[chan<- *tagstorev1.WatchResponse]<-chan struct{}{}})
	go func() { // ends with the process: the pipe closes when the parent is gone
		_, _ = os.Stdin.Read(make([]byte, 1))
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		panic(err)
	}
}

// checkToken is the least that a service with tokens does: it verifies that of each
// call, which for one that came before is a look-up.
func checkToken(verifier *auth.Verifier) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		token, err := auth.BearerToken(metadata.ValueFromIncomingContext(ctx, "authorization"))
		if err != nil {
			return nil, status.Error(codes.Unauthenticated, err.Error())
		}
		caller, err := verifier.Verify(ctx, token)
		if err != nil {
			return nil, status.Error(codes.Unauthenticated, err.Error())
		}
		return next(auth.ContextWithPrincipal(ctx, caller), req)
	}
}

// startEcho runs the baseline of a plugin, on a unix socket, and returns a
// client.
func startEcho(b *testing.B) tagstorev1.ConfigServiceClient {
	b.Helper()
	return dialEcho(b, serveEchoOn(b, "unix"))
}

// startEchoTCP runs the baseline of the service, on loopback as that is, and
// returns its address.
func startEchoTCP(b *testing.B) (address string) {
	b.Helper()
	return serveEchoOn(b, "tcp")
}

// startTokenEcho is startEchoTCP with a check of the tokens of o's issuer. It
// returns a client that is let in with this token.
func startTokenEcho(b *testing.B, o auth.Options, token string) tagstorev1.ConfigServiceClient {
	b.Helper()
	client := tagstorev1.NewConfigServiceClient(dial(b, serveEchoOn(b, "tcp", o.Issuer, o.ClientIDs[0], o.JWKSURL)))
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
	defer cancel()
	request := &tagstorev1.GetRequest{Key: keyName(0)}
	if _, err := client.Get(ctx, request); status.Code(err) != codes.Unauthenticated {
		b.Fatalf("a call without a token: %v", err)
	}
	for { // until it has the issuer's keys
		_, err := client.Get(bearer(ctx, token), request)
		if err == nil {
			return client
		}
		if ctx.Err() != nil {
			b.Fatal(err)
		}
	}
}

// bearer has a call of plain gRPC carry a token.
func bearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// serveEchoOn runs the baseline in a process of its own and returns its address.
func serveEchoOn(b *testing.B, network string, args ...string) (target string) {
	b.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "ts")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { os.RemoveAll(dir) })
		address = filepath.Join(dir, "echo.sock")
	}
	listener, err := (&net.ListenConfig{}).Listen(b.Context(), network, address)
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	target = listener.Addr().String()
	if local, ok := listener.(*net.UnixListener); ok {
		local.SetUnlinkOnClose(false)
		target = "unix:" + target
	}
	file, err := listener.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	cmd := exec.CommandContext(context.Background(), os.Args[0], append([]string{echoRole}, args...)...) // outlives b.Context, which ends before the cleanup
	cmd.ExtraFiles = []*os.File{file}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	return target
}

// dialEcho returns a client of one connection, which is open.
func dialEcho(b *testing.B, target string) tagstorev1.ConfigServiceClient {
	b.Helper()
	client := tagstorev1.NewConfigServiceClient(dial(b, target))
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	if _, err := client.Get(ctx, &tagstorev1.GetRequest{Key: keyName(0)}); err != nil {
		b.Fatal(err)
	}
	return client
}

// dial returns a plain connection of gRPC.
func dial(b *testing.B, target string) *grpc.ClientConn {
	b.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return conn
}

// value is a JSON document of valueSize bytes.
func value(i int) []byte {
	head := `{"n":"` + keyName(i) + `","pad":"`
	return []byte(head + strings.Repeat("x", valueSize-len(head)-2) + `"}`)
}
