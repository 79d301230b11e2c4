package app

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/auth/machinetoken"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/fanout"
	"github.com/tagstore/tagstore/core/settings"
	"github.com/tagstore/tagstore/core/telemetry"
	"github.com/tagstore/tagstore/internal/cloudmap"
	"github.com/tagstore/tagstore/services/config/internal/peers"
)

const (
	// registerTimeout and deregisterTimeout bound what Cloud Map may take.
	registerTimeout   = 30 * time.Second
	deregisterTimeout = 5 * time.Second
)

// PeerSettings say who the other replicas are and how they are told of changes.
type PeerSettings struct {
	ReplicaID string   `env:"REPLICA_ID" doc:"what this replica calls itself, 1 to 64 of A-Z a-z 0-9 . _ : / @ -, another one for each; by default the host's name and something random"`
	Static    []string `env:"PEERS" doc:"the replicas that are told of changes, as id=host:port; this one may be among them"`
	Namespace string   `env:"CLOUDMAP_NAMESPACE" doc:"or the AWS Cloud Map namespace in which they are found"`
	Service   string   `env:"CLOUDMAP_SERVICE" doc:"and the service there"`
	Register  bool     `env:"CLOUDMAP_REGISTER" default:"false" doc:"register this replica there while it serves; not where ECS does so"`

	TokenURL     *url.URL        `env:"MACHINE_TOKEN_URL" doc:"where this replica gets the token to tell others of changes with: the issuer's /oauth2/token"`
	ClientID     string          `env:"MACHINE_CLIENT_ID" doc:"its app client, which has to be among JWT_CLIENT_IDS and be granted the scope tagstore/refresh"`
	ClientSecret settings.Secret `env:"MACHINE_CLIENT_SECRET" doc:"and the secret of that"`

	Wait       time.Duration `env:"PEER_WAIT" default:"250ms" doc:"how long a write waits for the other replicas before its answer says who has it, 0s to 5s"`
	CA         string        `env:"PEER_CA" doc:"PEM file with the authorities of the other replicas' certificates, where TLS is on; by default the system's"`
	ServerName string        `env:"PEER_SERVER_NAME" doc:"the name in those certificates; by default the address that is dialled"`
}

// replicaID is what Cloud Map takes for the id of an instance.
var replicaID = regexp.MustCompile(`^[0-9A-Za-z_/:.@-]{1,64}$`)

// configured reports whether there may be other replicas.
func (s PeerSettings) configured() bool {
	return len(s.Static) > 0 || s.Namespace != "" || s.Service != ""
}

// peerPlan is what the settings come to.
type peerPlan struct {
	replica string
	static  []fanout.Replica
	client  []client.Option
}

// peers reports everything that is wrong with the settings about other
// replicas. address and own are those of the listener.
func (s Settings) peers(address *net.TCPAddr, own *tls.Config) (peerPlan, error) {
	p := peerPlan{replica: s.Peers.ReplicaID}
	problems := s.Peers.partners()
	if p.replica == "" {
		p.replica = madeUpID()
	} else if !replicaID.MatchString(p.replica) {
		problems = append(problems, wrong("REPLICA_ID", "is not 1 to 64 of A-Z a-z 0-9 . _ : / @ -"))
	}
	if s.Peers.Wait < 0 || s.Peers.Wait > peers.MaxWait {
		problems = append(problems, wrong("PEER_WAIT", "is not between 0s and 5s"))
	}
	if s.Peers.ClientID != "" && !slices.Contains(s.JWTClientIDs, s.Peers.ClientID) {
		problems = append(problems, wrong("MACHINE_CLIENT_ID", "is not in "+Prefix+"JWT_CLIENT_IDS").
			WithHint("add it there: the replicas are alike, and the others would refuse this one"))
	}
	if s.Peers.Register && address != nil && (address.IP == nil || address.IP.IsUnspecified()) {
		problems = append(problems, wrong("CLOUDMAP_REGISTER", "is set and "+Prefix+"LISTEN is every address of this machine").
			WithHint("listen on the one that the others reach it by"))
	}
	if (s.Peers.CA != "" || s.Peers.ServerName != "") && s.TLSCert == "" {
		problems = append(problems, wrong("PEER_CA", "or "+Prefix+"PEER_SERVER_NAME is set and "+Prefix+"TLS_CERT is not").
			WithHint("the replicas are alike: the others speak TLS if this one does"))
	}
	var err error
	if p.client, err = s.Peers.dial(own, s.Insecure); err != nil {
		problems = append(problems, err)
	}
	p.static, err = s.Peers.static(p.client)
	return p, errors.Join(append(problems, err)...)
}

// partners reports settings that mean nothing without others.
func (s PeerSettings) partners() (problems []error) {
	need := func(name string, set bool, other string, otherSet bool) {
		if set && !otherSet {
			problems = append(problems, wrong(name, "is set and "+Prefix+other+" is not").WithHint("set both, or neither"))
		}
	}
	need("CLOUDMAP_NAMESPACE", s.Namespace != "", "CLOUDMAP_SERVICE", s.Service != "")
	need("CLOUDMAP_SERVICE", s.Service != "", "CLOUDMAP_NAMESPACE", s.Namespace != "")
	need("CLOUDMAP_REGISTER", s.Register, "CLOUDMAP_NAMESPACE", s.Namespace != "")
	if len(s.Static) > 0 && s.Namespace != "" {
		problems = append(problems, wrong("PEERS", "and "+Prefix+"CLOUDMAP_NAMESPACE are both set").WithHint("keep one of them"))
	}
	whom := "PEERS"
	if len(s.Static) == 0 && s.configured() {
		whom = "CLOUDMAP_NAMESPACE"
	}
	for _, m := range []struct {
		name string
		set  bool
	}{
		{"MACHINE_TOKEN_URL", s.TokenURL != nil}, {"MACHINE_CLIENT_ID", s.ClientID != ""}, {"MACHINE_CLIENT_SECRET", !s.ClientSecret.IsZero()},
	} {
		need(whom, s.configured(), m.name, m.set)
		if m.set && !s.configured() {
			problems = append(problems, wrong(m.name, "is set and neither "+Prefix+"PEERS nor "+Prefix+"CLOUDMAP_NAMESPACE is").
				WithHint("set one of them, or unset it: there is nobody to tell"))
		}
	}
	return problems
}

// static parses the list of replicas.
func (s PeerSettings) static(options []client.Option) ([]fanout.Replica, error) {
	var problems []error
	var out []fanout.Replica
	for i, entry := range s.Static {
		bad := func(what string) {
			problems = append(problems, wrong("PEERS", fmt.Sprintf("has %s as its entry %d", what, i+1)).
				WithHint("write each as id=host:port, such as one=10.0.0.7:7070"))
		}
		id, address, ok := strings.Cut(entry, "=")
		host, _, err := net.SplitHostPort(address)
		switch {
		case !ok || !replicaID.MatchString(id) || err != nil || host == "":
			bad("something else")
			continue
		case slices.ContainsFunc(out, func(r fanout.Replica) bool { return r.ID == id }):
			bad("the id of another")
			continue
		}
		// It does not connect, and refuses what it would refuse at each change.
		c, err := client.New(address, options...)
		if err != nil {
			problems = append(problems, wrong("PEERS", fmt.Sprintf("has an entry %d that can not be told: %v", i+1, err)).
				WithHint("set %[1]sTLS_CERT and %[1]sTLS_KEY; or %[1]sINSECURE=true, if the network is trusted with tokens", Prefix))
			continue
		}
		c.Close()
		out = append(out, fanout.Replica{ID: id, Address: address})
	}
	return out, errors.Join(problems...)
}

// dial returns how to connect to replicas that are like this one: with TLS if
// it has it, and with its own certificate where it asks clients for theirs.
func (s PeerSettings) dial(own *tls.Config, insecure bool) ([]client.Option, error) {
	switch {
	case own == nil && insecure:
		return []client.Option{client.WithInsecure()}, nil
	case own == nil:
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName}
	if own.ClientAuth == tls.RequireAndVerifyClientCert {
		c.Certificates = own.Certificates
	}
	if s.CA != "" {
		var err error
		if c.RootCAs, err = authorities("PEER_CA", s.CA); err != nil {
			return nil, err
		}
	}
	return []client.Option{client.WithTLS(c)}, nil
}

// madeUpID is the host's name, as far as it fits, and something random: a
// replica that starts again is another one.
func madeUpID() string {
	host, err := os.Hostname()
	if err != nil || !replicaID.MatchString(host) || len(host) > 48 {
		host = "replica"
	}
	return host + "-" + strings.ToLower(rand.Text()[:10])
}

// others is what is open to tell other replicas with. The zero value is for a
// replica that has none.
type others struct {
	peers    *peers.Peers
	tokens   *machinetoken.Source
	registry *cloudmap.Registry
	self     fanout.Replica // registered; zero if not
	log      *slog.Logger
}

// openOthers asks nobody.
func openOthers(ctx context.Context, s PeerSettings, p peerPlan, tel *telemetry.Telemetry) (_ *others, err error) {
	o := &others{log: tel.Logger}
	if !s.configured() {
		return o, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	if o.tokens, err = machinetoken.New(machinetoken.Options{
		TokenURL: s.TokenURL.String(), ClientID: s.ClientID, ClientSecret: s.ClientSecret, Logger: tel.Logger,
	}); err != nil {
		return nil, err
	}
	found := fanout.Static(p.static...)
	if s.Namespace != "" {
		if o.registry, err = cloudmap.Open(ctx, cloudmap.Options{Namespace: s.Namespace, Service: s.Service}); err != nil {
			return nil, err
		}
		found = o.registry
	}
	o.peers, err = peers.New(peers.Options{
		Self: p.replica, Discoverer: found, Tokens: o.tokens, Wait: s.Wait, Logger: tel.Logger, MeterProvider: tel.MeterProvider,
		Client: append(slices.Clone(p.client), client.WithTelemetry(tel.MeterProvider, tel.TracerProvider)),
	})
	return o, err
}

// register makes this replica one that others find.
func (o *others) register(ctx context.Context, id string, address net.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	self := fanout.Replica{ID: id, Address: address.String()}
	if err := o.registry.Register(ctx, self); err != nil {
		return err
	}
	o.self = self
	o.log.Info("registered in Cloud Map", slog.String("replica", id), slog.String("address", self.Address))
	return nil
}

// deregister undoes register; it does nothing where that was not done.
func (o *others) deregister(ctx context.Context) {
	if o.self == (fanout.Replica{}) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deregisterTimeout)
	defer cancel()
	if err := o.registry.Deregister(ctx, o.self.ID); err != nil && !errors.Is(err, config.NotFound) {
		o.log.Warn("still registered in Cloud Map", slog.String("replica", o.self.ID), slog.String("error", err.Error()))
	}
	o.self = fanout.Replica{}
}

// close ends what is being told, and the rest.
func (o *others) close() error {
	errs := []error{o.peers.Close()}
	if o.tokens != nil {
		errs = append(errs, o.tokens.Close())
	}
	if o.registry != nil {
		errs = append(errs, o.registry.Close())
	}
	return errors.Join(errs...)
}
