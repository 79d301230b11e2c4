package system

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tagstore/tagstore/bench/check/history"
	"github.com/tagstore/tagstore/bench/check/origin"
	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/cache"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

const (
	readyTimeout = 30 * time.Second
	tokenLife    = 24 * time.Hour
	clientID     = "check"
	machineID    = "check-replicas"
)

// ProcessOptions say how the replicas of StartProcesses are run.
type ProcessOptions struct {
	Replicas int
	Backend  driver.Backend // shared by all, served to their plugins
	Policy   cache.Policy
	// Config and Plugin are the programs: services/config and check/plugin.
	Config, Plugin string
	Tenants        []config.Tenant
	LogLevel       string // "": WARN
	// Local lets each replica be asked through one client.Cache.
	Local bool
	// Streams lets Gets go over streams that stay open.
	Streams bool
}

// Processes are real replicas: the configuration service's processes, each
// with a plugin process of its own, whose store is this process.
type Processes struct {
	options  ProcessOptions
	dir      string
	origin   *origin.Server
	issuer   *devissuer.Issuer
	jwks     *http.Server
	replicas []*process
	tokens   map[config.Tenant]string
	refresh  string
	admin    string
	machine  devissuer.Machine // as which the replicas tell each other
}

var (
	_ System  = (*Processes)(nil)
	_ Watcher = (*Processes)(nil)
)

// StartProcesses starts the replicas and returns when all are ready. Close ends
// them.
func StartProcesses(ctx context.Context, o ProcessOptions) (_ *Processes, err error) {
	if o.LogLevel == "" {
		o.LogLevel = "WARN"
	}
	dir, err := os.MkdirTemp("", "ck") // short: it holds sockets
	if err != nil {
		return nil, err
	}
	p := &Processes{
		options: o, dir: dir, tokens: map[config.Tenant]string{}, machine: devissuer.Machine{ClientID: machineID, Secret: rand.Text()},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if p.origin, err = origin.Serve(ctx, p.socket(), o.Backend); err != nil {
		return nil, err
	}
	if err := p.issue(ctx); err != nil {
		return nil, err
	}
	tokenKey := base64.StdEncoding.EncodeToString(driver.NewTokenKey())
	for i := range o.Replicas {
		r := &process{system: p, name: fmt.Sprintf("r%d", i), tokenKey: tokenKey, logs: &logs{}}
		r.dir = filepath.Join(dir, r.name)
		p.replicas = append(p.replicas, r)
		// The others have to know it before it is there.
		if r.listen, err = freeAddress(ctx); err != nil {
			return nil, err
		}
		if err := r.install(); err != nil {
			return nil, err
		}
	}
	for _, r := range p.replicas {
		if err := r.start(ctx); err != nil {
			return nil, fmt.Errorf("replica %s: %w", r.name, err)
		}
	}
	return p, nil
}

// freeAddress is one of this machine that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func (p *Processes) socket() string { return filepath.Join(p.dir, "origin") }

// issue starts the token issuer and makes the tokens.
func (p *Processes) issue(ctx context.Context) error {
	var err error
	if p.issuer, err = devissuer.New(devissuer.Options{ClientID: clientID, Machine: p.machine}); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.issuer.SetURL("http://" + listener.Addr().String())
	p.jwks = &http.Server{Handler: p.issuer, ReadHeaderTimeout: time.Minute}
	go func() { _ = p.jwks.Serve(listener) }() // until Close
	for _, t := range p.options.Tenants {
		if p.tokens[t], err = p.issuer.ID(t.String(), "check", auth.RoleEditor, tokenLife); err != nil {
			return err
		}
		if p.admin, err = p.issuer.ID(t.String(), "check", auth.RoleAdmin, tokenLife); err != nil {
			return err
		}
	}
	p.refresh, err = p.issuer.Refresher(tokenLife)
	return err
}

// process is one replica.
type process struct {
	system   *Processes
	name     string
	dir      string
	listen   string
	tokenKey string
	logs     *logs

	manifests atomic.Int64 // that were written

	mu         sync.Mutex
	management string
	cmd        *exec.Cmd
	ended      chan struct{}
	client     *client.Client
	cache      *client.Cache // nil unless the clients have one
}

func (r *process) plugin() string { return filepath.Join(r.dir, "plugin") }

// install makes the folder of a replica.
func (r *process) install() error {
	if err := os.MkdirAll(filepath.Join(r.dir, "s"), 0o700); err != nil {
		return err
	}
	program, err := os.ReadFile(r.system.options.Plugin)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.plugin(), program, 0o700); err != nil { //nolint:gosec // it is a program
		return err
	}
	return r.writeManifest()
}

// writeManifest writes one that is another than the last, as an editor does:
// nothing but the deadline of calls is, so the plugin is replaced and the store
// is the same.
func (r *process) writeManifest() error {
	p := r.system.options.Policy
	timeout := 5*time.Second + time.Duration(r.manifests.Add(1)%2)*time.Millisecond
	text := fmt.Sprintf(`version: 1
backends:
  origin:
    plugin: ./plugin
    call_timeout: %v
    options: { socket: %q }
routes:
  - prefix: %s
    backend: origin
    cache: { mode: event, max_staleness: %v, stale_if_error: %v, negative_ttl: %v }
    layers: ["{tenant}/{service}", "{tenant}"]
`, timeout, r.system.socket(), Prefix, p.MaxStaleness, p.StaleIfError, p.NegativeTTL)
	path := filepath.Join(r.dir, "tagstore.yaml")
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// start runs the replica and waits until it is ready.
func (r *process) start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	issuer := r.system.issuer
	cmd := exec.CommandContext(context.WithoutCancel(ctx), r.system.options.Config)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "TAGSTORE_MANIFEST=" + filepath.Join(r.dir, "tagstore.yaml"),
		"TAGSTORE_LISTEN=" + r.listen, "TAGSTORE_MANAGEMENT_LISTEN=127.0.0.1:0", "TAGSTORE_SOCKET_DIR=" + filepath.Join(r.dir, "s"),
		"TAGSTORE_JWT_ISSUER=" + issuer.Issuer(), "TAGSTORE_JWT_CLIENT_IDS=" + issuer.ClientID() + "," + machineID, "TAGSTORE_JWKS_URL=" + issuer.JWKSURL(),
		"TAGSTORE_DEV=true", "TAGSTORE_PLUGIN_MAX_FAILURES=0", "TAGSTORE_TOKEN_KEY=" + r.tokenKey, "TAGSTORE_LOG_LEVEL=" + r.system.options.LogLevel, "TAGSTORE_DRAIN_DELAY=0s",
		"TAGSTORE_REPLICA_ID=" + r.name, "TAGSTORE_RECONCILE_CALLS=60000", "TAGSTORE_REFRESHES_PER_TENANT=10000", "TAGSTORE_WATCH_HEARTBEAT=1s",
	}
	if len(r.system.replicas) > 1 {
		all := make([]string, len(r.system.replicas))
		for i, other := range r.system.replicas {
			all[i] = other.name + "=" + other.listen
		}
		cmd.Env = append(cmd.Env, "TAGSTORE_PEERS="+strings.Join(all, ","), "TAGSTORE_MACHINE_TOKEN_URL="+issuer.TokenURL(),
			"TAGSTORE_MACHINE_CLIENT_ID="+machineID, "TAGSTORE_MACHINE_CLIENT_SECRET="+r.system.machine.Secret)
	}
	ready := r.logs.expect()
	cmd.Stdout, cmd.Stderr = r.logs, r.logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed, most often
	}()
	r.cmd, r.ended = cmd, ended
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	select {
	case at := <-ready:
		r.management = at.Management
	case <-ended:
		r.cmd = nil
		return fmt.Errorf("it ended at once:\n%s", r.logs.last())
	case <-ctx.Done():
		return fmt.Errorf("it was not ready in time:\n%s", r.logs.last())
	}
	if r.client != nil {
		return nil
	}
	var options []client.Option
	if r.system.options.Streams {
		options = append(options, client.WithStreams())
	}
	var err error
	if r.client, err = client.New(r.listen, options...); err != nil || !r.system.options.Local {
		return err
	}
	p := r.system.options.Policy
	r.cache, err = client.NewCache(r.client, client.CacheOptions{
		Prefixes: []string{Prefix}, MaxStaleness: p.MaxStaleness, StaleIfError: p.StaleIfError,
	})
	return err
}

// kill ends the replica with SIGKILL. Its plugin notices by itself.
func (r *process) kill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return nil
	}
	err := r.cmd.Process.Kill()
	<-r.ended
	r.cmd = nil
	return err
}

// signal sends a signal to the replica alone.
func (r *process) signal(s syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return nil // whoever killed it starts it again
	}
	return r.cmd.Process.Signal(s)
}

// logs keeps what a replica prints.
type logs struct {
	mu    sync.Mutex
	text  bytes.Buffer
	from  int
	ready chan addresses
}

type addresses struct{ Msg, Management string }

// expect returns where the next "ready" is told.
func (l *logs) expect() <-chan addresses {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.from, l.ready = l.text.Len(), make(chan addresses, 1)
	return l.ready
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	for {
		line, _, whole := bytes.Cut(l.text.Bytes()[l.from:], []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.from += len(line) + 1
		var at addresses
		if l.ready != nil && json.Unmarshal(line, &at) == nil && at.Msg == "ready" {
			l.ready <- at
			l.ready = nil
		}
	}
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// last is the end of what was printed.
func (l *logs) last() string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// Name implements System.
func (p *Processes) Name() string { return "processes" }

// Replicas implements System.
func (p *Processes) Replicas() int { return len(p.replicas) }

// Logs is what a replica and its plugins have printed.
func (p *Processes) Logs(replica int) string { return p.replicas[replica].logs.String() }

// Metrics is what a replica tells a scraper.
func (p *Processes) Metrics(ctx context.Context, replica int) (string, error) {
	u := url.URL{Scheme: "http", Host: p.replicas[replica].management, Path: "/metrics"}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	var text bytes.Buffer
	_, err = text.ReadFrom(resp.Body)
	return text.String(), err
}

// values is a client with or without a cache.
type values interface {
	Get(ctx context.Context, key config.Key, service config.Service, opts ...client.GetOption) (client.Answer, error)
	Put(ctx context.Context, r client.PutRequest, opts ...client.WriteOption) (client.Entry, error)
	Delete(ctx context.Context, r client.DeleteRequest, opts ...client.WriteOption) (client.Entry, error)
}

func (r *process) values() values {
	if r.cache != nil {
		return r.cache
	}
	return r.client
}

func (p *Processes) as(ctx context.Context, id config.ID) context.Context {
	return client.ContextWithToken(ctx, p.tokens[id.Tenant])
}

var errOther = config.Errorf(config.Internal, "the answer is another layer's")

// Get implements System.
func (p *Processes) Get(ctx context.Context, replica int, id config.ID, w Want) (Answer, error) {
	var opts []client.GetOption
	if w.MinVersion > 0 {
		opts = append(opts, client.MinVersion(w.MinVersion))
	}
	if w.Truth {
		opts = append(opts, client.MaxStaleness(0))
	}
	a, err := p.replicas[replica].values().Get(p.as(ctx, id), id.Key, id.Service, opts...)
	switch {
	case config.CodeOf(err) == config.NotFound:
		return Answer{Absent: true, Mark: marked(a.Freshness.State), Lag: a.Lag}, nil
	case err != nil:
		return Answer{}, err
	case a.Entry.Service != id.Service || a.Entry.Shared:
		return Answer{}, errOther
	}
	return Answer{Version: a.Entry.Version, Value: a.Entry.Value, Mark: marked(a.Freshness.State), Lag: a.Lag}, nil
}

// Put implements System.
func (p *Processes) Put(ctx context.Context, replica int, id config.ID, latest uint64, value []byte) (history.Replicas, error) {
	var others []client.ReplicaStatus
	_, err := p.replicas[replica].values().Put(p.as(ctx, id),
		client.PutRequest{Key: id.Key, Service: id.Service, Value: value, ExpectedVersion: &latest}, client.Replicas(&others))
	return p.have(replica, others, err)
}

// Delete implements System.
func (p *Processes) Delete(ctx context.Context, replica int, id config.ID, latest uint64) (history.Replicas, error) {
	var others []client.ReplicaStatus
	_, err := p.replicas[replica].values().Delete(p.as(ctx, id),
		client.DeleteRequest{Key: id.Key, Service: id.Service, ExpectedVersion: &latest}, client.Replicas(&others))
	return p.have(replica, others, err)
}

// have is which replicas have a change, as the answer says.
func (p *Processes) have(replica int, others []client.ReplicaStatus, err error) (history.Replicas, error) {
	if err != nil {
		return 0, err
	}
	set := history.Only(replica)
	for i, r := range p.replicas {
		for _, other := range others {
			if other.Replica == r.name && other.Err == nil {
				set |= history.Only(i)
			}
		}
	}
	return set, nil
}

// Refresh implements System, as the machine that announces changes.
func (p *Processes) Refresh(ctx context.Context, replica int, id config.ID, least uint64) (Receipt, error) {
	a, err := p.replicas[replica].client.Refresh(client.ContextWithToken(ctx, p.refresh), []client.RefreshTarget{
		{Tenant: id.Tenant, Service: id.Service, Key: id.Key, MinVersion: least},
	})
	if err != nil {
		return Receipt{}, err
	}
	return Receipt{Version: a.Receipts[0].Version, Absent: a.Receipts[0].Absent}, a.Receipts[0].Err
}

// Watch implements Watcher. The client resumes by itself.
func (p *Processes) Watch(ctx context.Context, replica int, w Watch, emit func(Event) error) error {
	kinds := map[client.EventKind]history.EventKind{
		client.EventPut: history.Value, client.EventDelete: history.Gone, client.EventSync: history.Synced, client.EventGap: history.Gap,
		client.EventSourceDown: history.Down, client.EventSourceUp: history.Up,
	}
	var failed error
	err := p.replicas[replica].client.Watch(client.ContextWithToken(ctx, p.tokens[w.Tenant]), client.WatchRequest{
		KeyPrefix: w.Prefix, Service: w.Service, ResumeToken: w.After,
		OnRetry: func(error, time.Duration) { failed = emit(Event{Kind: history.Resumed}) },
	}, func(e client.Event) error {
		if failed != nil {
			return failed
		}
		out := Event{Kind: kinds[e.Kind], Version: e.Entry.Version, Value: e.Entry.Value, Resume: e.ResumeToken}
		if !e.Entry.Key.IsZero() {
			out.ID = config.ID{Tenant: w.Tenant, Service: e.Entry.Service, Key: e.Entry.Key}
		}
		return emit(out)
	})
	return err
}

// pluginPID is the process of a replica's plugin, 0 if none runs.
func (p *Processes) pluginPID(ctx context.Context, replica int) (int, error) {
	backends, err := p.replicas[replica].client.ListBackends(client.ContextWithToken(ctx, p.admin))
	if err != nil {
		return 0, err
	}
	return int(backends[0].PID), nil
}

// KillPlugin kills a replica's plugin.
func (p *Processes) KillPlugin(ctx context.Context, replica int) error {
	return p.signalPlugin(ctx, replica, syscall.SIGKILL)
}

func (p *Processes) signalPlugin(ctx context.Context, replica int, s syscall.Signal) error {
	pid, err := p.pluginPID(ctx, replica)
	if err != nil || pid == 0 {
		return err // it is gone already
	}
	if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// StopPlugin stops a replica's plugin until the returned function is called.
func (p *Processes) StopPlugin(ctx context.Context, replica int) (resume func() error, err error) {
	pid, err := p.pluginPID(ctx, replica)
	if err != nil || pid == 0 {
		return func() error { return nil }, err
	}
	send := func(s syscall.Signal) error {
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return nil
	}
	return func() error { return send(syscall.SIGCONT) }, send(syscall.SIGSTOP)
}

// HoldPlugin kills a replica's plugin and keeps it from being started again
// until the returned function is called.
func (p *Processes) HoldPlugin(ctx context.Context, replica int) (release func() error, err error) {
	program := p.replicas[replica].plugin()
	if err := os.Rename(program, program+".away"); err != nil {
		return nil, err
	}
	return func() error { return os.Rename(program+".away", program) }, p.KillPlugin(ctx, replica)
}

// ReloadReplica has a replica reload a manifest that replaces its plugin.
func (p *Processes) ReloadReplica(replica int) error {
	r := p.replicas[replica]
	if err := r.writeManifest(); err != nil {
		return err
	}
	return r.signal(syscall.SIGHUP)
}

// KillReplica kills a replica; the returned function starts it again.
func (p *Processes) KillReplica(replica int) (restart func(context.Context) error, err error) {
	r := p.replicas[replica]
	return r.start, r.kill()
}

// StopReplica stops a replica's process until the returned function is called.
func (p *Processes) StopReplica(replica int) (resume func() error, err error) {
	r := p.replicas[replica]
	return func() error { return r.signal(syscall.SIGCONT) }, r.signal(syscall.SIGSTOP)
}

// Close implements System. It ends everything that StartProcesses started, and
// leaves nothing behind.
func (p *Processes) Close() error {
	var errs []error
	for _, r := range p.replicas {
		if r.cache != nil {
			errs = append(errs, r.cache.Close())
		}
		if r.client != nil {
			errs = append(errs, r.client.Close())
		}
		errs = append(errs, r.kill())
	}
	if p.jwks != nil {
		errs = append(errs, p.jwks.Close())
	}
	if p.origin != nil {
		errs = append(errs, p.origin.Close())
	}
	errs = append(errs, os.RemoveAll(p.dir))
	return errors.Join(errs...)
}
