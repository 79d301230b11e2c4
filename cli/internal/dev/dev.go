package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/cli/internal/seed"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
	"github.com/tagstore/tagstore/core/pluginhost"
)

// Options say how to run the system.
type Options struct {
	// Dir is the folder that holds all state; it is made if need be.
	Dir string
	// Manifest is the manifest to serve, "" for the one of the folder.
	Manifest string
	// Seed fills in the two tenants in the stores of Manifest too, as far as it
	// has routes for them. It is off by default: they may be anybody's stores.
	Seed bool
	// OrderTable is the DynamoDB table for the orders, which must exist, "" for
	// a file of the folder. The order service then gets Environ's AWS settings.
	OrderTable string
	// Replicas is how many configuration services run, 0 for one. More than one
	// find each other in the Cloud Map service that CloudMap names, as
	// NAMESPACE/SERVICE, in which each registers itself. They get Environ's AWS
	// settings. ConfigListen and ManagementListen are the first one's.
	Replicas int
	CloudMap string
	// Also is a program to run beside the services, "" for none. It gets
	// Environ, and in InfoVariable the path of what dev.json will hold; it is
	// ready when it prints a JSON line with the msg "ready", as services do.
	Also string
	// Mount is nil, or a plugin that is being written.
	Mount *Mount
	// The addresses to listen on; "" takes a free port on loopback.
	ConfigListen, ManagementListen     string
	OrderListen, OrderManagementListen string
	IssuerListen                       string
	// Verbose copies the logs of the services to Stderr.
	Verbose bool
	// Executable is the running tagctl: the other binaries stand beside it.
	Executable string
	// Environ is where the variables come from that the manifest passes on to
	// plugins, and the AWS settings of OrderTable; WorkDir is the folder that the printed commands are made for.
	Environ        []string
	WorkDir        string
	Stdout, Stderr io.Writer
}

// Run starts the system, writes dev.json and prints what to try once all of it
// is ready, and serves until ctx is done, which is a nil error. When it
// returns, for whatever reason, every process and listener is gone and so is
// dev.json.
//
// A service that ends by itself ends the system; the error shows its last log
// lines.
func Run(ctx context.Context, o Options) error {
	began := time.Now()
	if err := errors.Join(o.checkAddresses(), o.checkReplicas(), o.checkMount()); err != nil {
		return err
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return unusable(o.Dir, err)
	}
	o.Dir = dir
	bin, err := findBinaries(filepath.Dir(o.Executable))
	if err != nil {
		return err
	}
	for _, sub := range []string{"", "data", "logs"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return unusable(dir, err)
		}
	}
	held, err := acquire(dir)
	if err != nil {
		return err
	}
	defer held.release()
	// A system that was killed could not do so itself.
	if err := remove(InfoPath(dir)); err != nil {
		return unusable(dir, err)
	}

	s := &system{options: o, bin: bin, run: held.run}
	err = s.start(ctx)
	if err == nil {
		fmt.Fprint(o.Stdout, s.banner(time.Since(began)))
		err = s.wait(ctx)
	}
	if err == nil || ctx.Err() != nil {
		fmt.Fprintln(o.Stderr, "Stopping.")
		err = nil
	}
	return errors.Join(err, s.stop())
}

// checkAddresses refuses an address that another machine could reach, before
// anything listens on it or remembers it.
func (o Options) checkAddresses() error {
	for _, a := range []struct{ flag, address string }{
		{"config-listen", o.ConfigListen},
		{"management-listen", o.ManagementListen},
		{"order-listen", o.OrderListen},
		{"order-management-listen", o.OrderManagementListen},
		{"issuer-listen", o.IssuerListen},
	} {
		if a.address == "" {
			continue
		}
		host, _, err := net.SplitHostPort(a.address)
		if err != nil {
			return config.Errorf(config.InvalidArgument, "--%s is not host:port", a.flag).
				WithHint("write one such as 127.0.0.1:8080; port 0 takes a free one")
		}
		if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
			return config.Errorf(config.InvalidArgument, "--%s is not on loopback, and a development system is for this machine only", a.flag).
				WithHint("listen on 127.0.0.1")
		}
	}
	return nil
}

// maxReplicas bounds what one machine runs.
const maxReplicas = 9

func (o Options) checkReplicas() error {
	namespace, service, ok := strings.Cut(o.CloudMap, "/")
	switch {
	case o.CloudMap != "" && (!ok || namespace == "" || service == "" || strings.Contains(service, "/")):
		return config.Errorf(config.InvalidArgument, "--cloudmap is not NAMESPACE/SERVICE")
	case o.Replicas < 0 || o.Replicas > maxReplicas:
		return config.Errorf(config.InvalidArgument, "--replicas is %d", o.Replicas).WithHint("use 1 to %d", maxReplicas)
	case o.Replicas > 1 && o.CloudMap == "":
		return config.Errorf(config.InvalidArgument, "--replicas is %d, and nothing says where they find each other", o.Replicas).
			WithHint("set --cloudmap to a service of AWS Cloud Map, as NAMESPACE/SERVICE")
	case o.Replicas > 1 && o.Manifest == "":
		return config.Errorf(config.InvalidArgument, "--replicas is %d, and the folder's own stores are files of one process", o.Replicas).
			WithHint("set --manifest to one whose stores can be shared")
	}
	return nil
}

// system is what Run has started so far, in order.
type system struct {
	options  Options
	bin      binaries
	run      string // temporary folder, for sockets
	info     Info
	issuer   *issuer
	children []*child
	config   *child // the first configuration service
	// ended gets every child that has ended.
	ended chan *child
}

func (s *system) start(ctx context.Context) error {
	s.ended = make(chan *child, max(s.options.Replicas, 1)+2) // of services, orders and Also
	values, err := seed.Demo()
	if err != nil {
		return err
	}
	var m *manifest.Manifest
	// The two have nothing to do with each other, and both take a while at the
	// first start: one makes a key, the other starts plugins.
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		s.issuer, err = startIssuer(groupCtx, s.options.Dir, s.options.IssuerListen)
		return err
	})
	group.Go(func() (err error) {
		if m, err = s.manifest(); err == nil && (s.options.Manifest == "" || s.options.Seed) {
			err = s.seed(groupCtx, m, values)
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	s.info = Info{Manifest: m.Path, Issuer: s.issuer.Issuer.Issuer(), JWKSURL: s.issuer.JWKSURL()}
	if err := s.issuer.tokens(&s.info, tenants(values)); err != nil {
		return err
	}
	for n := range max(s.options.Replicas, 1) {
		if err := s.startConfig(ctx, m, n); err != nil {
			return err
		}
	}
	if err := s.startOrder(ctx); err != nil {
		return err
	}
	if s.options.Also != "" {
		if err := s.startAlso(ctx); err != nil {
			return err
		}
	}
	if err := writeJSON(InfoPath(s.options.Dir), s.info); err != nil {
		return unusable(s.options.Dir, err)
	}
	return nil
}

func tenants(values []seed.Value) []string {
	var names []string
	for _, v := range values {
		if !v.ID.Tenant.IsShared() && !slices.Contains(names, v.ID.Tenant.String()) {
			names = append(names, v.ID.Tenant.String())
		}
	}
	return names
}

// manifest returns the manifest to serve.
func (s *system) manifest() (*manifest.Manifest, error) {
	path := s.options.Manifest
	if path == "" {
		var err error
		if path, err = layOut(s.options.Dir, s.bin.plugin); err != nil {
			return nil, err
		}
		if s.options.Mount != nil {
			if path, err = s.options.Mount.layOut(s.options.Dir); err != nil {
				return nil, err
			}
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	return manifest.Load(path, manifest.Options{Dev: true})
}

// seed writes the values that the stores have never had.
func (s *system) seed(ctx context.Context, m *manifest.Manifest, values []seed.Value) error {
	logPath := filepath.Join(s.options.Dir, "logs", "seed.log")
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return unusable(s.options.Dir, err)
	}
	defer log.Close()
	_, err = seed.Apply(ctx, m, values, seed.Options{
		Host:         pluginhost.Options{SocketDir: filepath.Join(s.run, "seed"), Dev: true, Logger: slog.New(slog.NewJSONHandler(log, nil))},
		SkipUnrouted: s.options.Manifest != "",
	})
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(s.options.Stderr, "The stores could not be prepared; what their plugins logged is in %s.\n", logPath)
	}
	return err
}

// startConfig starts replica n, counted from 0.
func (s *system) startConfig(ctx context.Context, m *manifest.Manifest, n int) error {
	name, listen, management := "tagstore-config", s.options.ConfigListen, s.options.ManagementListen
	if n > 0 {
		name, listen, management = fmt.Sprintf("%s-%d", name, n+1), "", ""
	}
	env := append(s.passedOn(m),
		"TMPDIR="+s.run,
		"TAGSTORE_DEV=true",
		"TAGSTORE_MANIFEST="+m.Path,
		"TAGSTORE_LISTEN="+orAnyPort(listen),
		"TAGSTORE_MANAGEMENT_LISTEN="+orAnyPort(management),
		"TAGSTORE_JWT_ISSUER="+s.info.Issuer,
		"TAGSTORE_JWT_CLIENT_IDS="+clientID+","+machineID,
		"TAGSTORE_JWKS_URL="+s.info.JWKSURL,
		"TAGSTORE_TOKEN_KEY="+s.issuer.identity.TokenKey,
		// There is no load balancer here that would have to notice.
		"TAGSTORE_DRAIN_DELAY=0s",
		"TAGSTORE_DRAIN_TIMEOUT=5s",
	)
	env = append(env, s.inCloudMap(name)...)
	ready, err := s.launch(ctx, program{name: name, path: s.bin.config, dir: s.options.Dir, env: env})
	if err != nil {
		return err
	}
	grpc, err := ready.address("grpc")
	if err != nil {
		return err
	}
	if s.options.Replicas > 0 {
		s.info.ConfigGRPCAll = append(s.info.ConfigGRPCAll, grpc)
	}
	if n > 0 {
		return nil
	}
	s.config = s.children[len(s.children)-1]
	s.info.ConfigGRPC = grpc
	management, err = ready.address("management")
	s.info.ManagementHTTP = "http://" + management
	return err
}

// inCloudMap returns the settings by which a replica registers itself and finds
// the others.
func (s *system) inCloudMap(id string) []string {
	if s.options.CloudMap == "" {
		return nil
	}
	namespace, service, _ := strings.Cut(s.options.CloudMap, "/")
	return append(s.awsSettings(),
		"TAGSTORE_REPLICA_ID="+id,
		"TAGSTORE_CLOUDMAP_NAMESPACE="+namespace,
		"TAGSTORE_CLOUDMAP_SERVICE="+service,
		"TAGSTORE_CLOUDMAP_REGISTER=true",
		"TAGSTORE_MACHINE_TOKEN_URL="+s.info.Machine.TokenURL,
		"TAGSTORE_MACHINE_CLIENT_ID="+s.info.Machine.ClientID,
		"TAGSTORE_MACHINE_CLIENT_SECRET="+s.info.Machine.ClientSecret,
	)
}

// awsSettings returns what the AWS SDK looks at. Its files are in the home
// folder unless AWS_* says otherwise.
func (s *system) awsSettings() []string {
	var env []string
	for _, entry := range s.options.Environ {
		if strings.HasPrefix(entry, "AWS_") || strings.HasPrefix(entry, "HOME=") {
			env = append(env, entry)
		}
	}
	return env
}

// startAlso starts Options.Also. dev.json is there when all is ready, so what it
// will hold stands elsewhere until then.
func (s *system) startAlso(ctx context.Context) error {
	path := filepath.Join(s.run, infoFile)
	if err := writeJSON(path, s.info); err != nil {
		return unusable(s.run, err)
	}
	program := program{name: filepath.Base(s.options.Also), path: s.options.Also, dir: s.options.Dir}
	program.env = append(slices.DeleteFunc(slices.Clone(s.options.Environ), func(entry string) bool {
		return strings.HasPrefix(entry, "TAGSTORE_") && !strings.HasPrefix(entry, DirVariable+"=")
	}), "TMPDIR="+s.run, InfoVariable+"="+path)
	_, err := s.launch(ctx, program)
	return err
}

func (s *system) startOrder(ctx context.Context) error {
	env := append(s.orderStore(),
		"TMPDIR="+s.run,
		"ORDER_LISTEN="+orAnyPort(s.options.OrderListen),
		"ORDER_MANAGEMENT_LISTEN="+orAnyPort(s.options.OrderManagementListen),
		"ORDER_CONFIG_TARGET="+s.info.ConfigGRPC,
		"ORDER_JWT_ISSUER="+s.info.Issuer,
		"ORDER_JWT_CLIENT_IDS="+clientID,
		"ORDER_JWKS_URL="+s.info.JWKSURL,
		"ORDER_CURSOR_KEY="+s.issuer.identity.CursorKey,
		"ORDER_DRAIN_TIMEOUT=5s",
	)
	ready, err := s.launch(ctx, program{name: "tagstore-order", path: s.bin.order, dir: s.options.Dir, env: env})
	if err != nil {
		return err
	}
	http, err := ready.address("http")
	s.info.OrderHTTP = "http://" + http
	return err
}

// orderStore returns the settings that say where the orders are.
func (s *system) orderStore() []string {
	if s.options.OrderTable == "" {
		return []string{"ORDER_DATA=" + filepath.Join(s.options.Dir, "data", "orders.db")}
	}
	return append(s.awsSettings(), "ORDER_STORE=dynamodb", "ORDER_DYNAMODB_TABLE="+s.options.OrderTable)
}

// launch starts a service and waits until it is ready. What it has started,
// stop stops.
func (s *system) launch(ctx context.Context, p program) (readyLine, error) {
	var tee io.Writer
	switch {
	case s.options.Verbose:
		tee = s.options.Stderr
	case s.options.Mount != nil:
		tee = pluginLines{s.options.Stderr, s.options.Mount.Name}
	}
	log, err := newChildLog(p.name, filepath.Join(s.options.Dir, "logs", p.name+".log"), tee)
	if err != nil {
		return readyLine{}, unusable(s.options.Dir, err)
	}
	c, err := start(p, log, s.ended)
	if err != nil {
		log.close()
		return readyLine{}, err
	}
	s.children = append(s.children, c)
	return c.ready(ctx)
}

// maxFailuresVariable is passed on, for whoever means to kill plugins all day.
const maxFailuresVariable = "TAGSTORE_PLUGIN_MAX_FAILURES"

// passedOn returns the variables that plugins of the manifest are to get: the
// service itself gets nothing else of this process's environment, but for one.
func (s *system) passedOn(m *manifest.Manifest) []string {
	var env []string
	for _, entry := range s.options.Environ {
		name, _, _ := strings.Cut(entry, "=")
		if name == maxFailuresVariable || slices.ContainsFunc(m.Backends, func(b manifest.Backend) bool {
			return slices.Contains(b.Env, name) || b.AWS && strings.HasPrefix(name, "AWS_")
		}) {
			env = append(env, entry)
		}
	}
	return env
}

func orAnyPort(address string) string {
	if address == "" {
		return anyPort
	}
	return address
}

// wait returns when ctx is done, with nil, or something ends that should not.
func (s *system) wait(ctx context.Context) error {
	var rebuilt <-chan struct{}
	if s.options.Mount != nil {
		rebuilt = s.options.Mount.Rebuilt
		showing, stop := context.WithCancel(ctx)
		var shown sync.WaitGroup
		shown.Go(func() { s.timings(showing) })
		defer shown.Wait()
		defer stop()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rebuilt:
			s.remount()
		case c := <-s.ended:
			return c.endedError()
		case err := <-s.issuer.failed:
			return config.Errorf(config.Internal, "the token issuer failed: %v", err).WithHint("start tagctl dev again").WithCause(err)
		}
	}
}

// stop ends everything, last started first.
func (s *system) stop() error {
	errs := []error{remove(InfoPath(s.options.Dir))}
	for _, c := range slices.Backward(s.children) {
		errs = append(errs, c.stop())
		c.log.close()
	}
	if s.issuer != nil {
		s.issuer.close()
	}
	return errors.Join(errs...)
}

// banner says where everything is and what to try. Its commands work as they
// are in the folder that tagctl dev was started in.
func (s *system) banner(took time.Duration) string {
	tagctl := commandPath(s.options.WorkDir, s.options.Executable)
	if s.options.Dir != filepath.Join(s.options.WorkDir, defaultDir) {
		tagctl = DirVariable + "=" + quote(s.options.Dir) + " " + tagctl
	}
	try := "tenant_config_"
	if s.options.Mount != nil {
		try = s.options.Mount.Prefix
	}
	return fmt.Sprintf(`tagstore is ready (%[1]s). Ctrl-C stops all of it.

  configuration  %[2]s (gRPC)
  orders         %[3]s
  management     %[4]s
  tokens         %[5]s
  state          %[6]s

Three commands to try, in another terminal, in this folder:

  %[7]s get tenant_config_payment-gateway
  %[7]s set %[8]sgreeting '{"text": "hello"}' -m "first try"
  curl -sS -H "Authorization: Bearer $(%[7]s token --tenant globex-inc)" -H 'Content-Type: application/json' -d '{"items": [{"sku": "book", "quantity": 2, "unitPrice": 15000}]}' %[3]s/v1/orders

`, took.Round(10*time.Millisecond), s.info.ConfigGRPC, s.info.OrderHTTP, s.info.ManagementHTTP, s.info.Issuer, s.options.Dir, tagctl, try)
}
