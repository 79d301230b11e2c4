package dev

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/auth/devissuer"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

const (
	clientID = "tagstore-dev"
	// machineID is the app client of the machines that announce changes. Its
	// secret is another one at every start.
	machineID = "tagstore-dev-machine"
	// tokenLife is long: nobody else can use these tokens, and a development
	// system may run for days.
	tokenLife = 7 * 24 * time.Hour
	// anyPort takes a free port on loopback.
	anyPort = "127.0.0.1:0"
)

// roles are the roles of a tenant that there are tokens for.
var roles = []auth.Role{auth.RoleReader, auth.RoleEditor, auth.RoleAdmin}

// identity is what must stay the same for tokens to outlive a restart, beside
// the issuer's key.
type identity struct {
	// IssuerAddress is where the issuer listened last: its URL stands in every
	// token.
	IssuerAddress string `json:"issuer_address"`
	// TokenKey seals the page and resume tokens of the configuration service,
	// CursorKey the cursors of the order service.
	TokenKey  string `json:"token_key"`
	CursorKey string `json:"cursor_key"`
}

func readIdentity(path string) (identity, error) {
	var id identity
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return identity{}, err
	default:
		if err := json.Unmarshal(text, &id); err != nil {
			return identity{}, config.Errorf(config.FailedPrecondition, "%s is damaged", path).
				WithHint("delete it; tokens that were handed out before then end").WithCause(err)
		}
	}
	for _, key := range []*string{&id.TokenKey, &id.CursorKey} {
		if *key == "" {
			*key = base64.StdEncoding.EncodeToString(driver.NewTokenKey())
		}
	}
	if id.IssuerAddress == "" {
		id.IssuerAddress = anyPort
	}
	return id, nil
}

// issuer is the token issuer and its listener.
type issuer struct {
	*devissuer.Issuer
	identity identity
	machine  devissuer.Machine
	server   *http.Server
	failed   chan error // gets what ends the listener before close
	done     chan struct{}
}

// startIssuer serves the issuer of a folder. An address that was asked for must
// be free; the one of the last start is only tried.
func startIssuer(ctx context.Context, dir, address string) (*issuer, error) {
	key, err := devissuer.LoadOrCreate(filepath.Join(dir, "issuer.pem"))
	if err != nil {
		return nil, err
	}
	idPath := filepath.Join(dir, "identity.json")
	id, err := readIdentity(idPath)
	if err != nil {
		return nil, err
	}
	listener, err := listenIssuer(ctx, address, id.IssuerAddress)
	if err != nil {
		return nil, config.Errorf(config.FailedPrecondition, "the token issuer can not listen: %v", err).
			WithHint("free the port, or set --issuer-listen to another one (port 0 takes a free one)").WithCause(err)
	}
	id.IssuerAddress = listener.Addr().String()
	machine := devissuer.Machine{ClientID: machineID, Secret: rand.Text()}
	tokens, err := devissuer.New(devissuer.Options{ClientID: clientID, Machine: machine, Key: key})
	if err == nil {
		err = writeJSON(idPath, id)
	}
	if err != nil {
		listener.Close()
		return nil, err
	}
	tokens.SetURL("http://" + id.IssuerAddress)
	i := &issuer{
		Issuer: tokens, identity: id, machine: machine, failed: make(chan error, 1), done: make(chan struct{}),
		server: &http.Server{Handler: tokens, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second},
	}
	go func() {
		defer close(i.done)
		if err := i.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			i.failed <- err
		}
	}()
	return i, nil
}

func listenIssuer(ctx context.Context, address, last string) (net.Listener, error) {
	var listen net.ListenConfig
	if address != "" {
		return listen.Listen(ctx, "tcp", address)
	}
	if l, err := listen.Listen(ctx, "tcp", last); err == nil {
		return l, nil
	}
	return listen.Listen(ctx, "tcp", anyPort)
}

// tokens fills in the tokens of dev.json, and how a machine gets its own.
func (i *issuer) tokens(info *Info, tenants []string) error {
	info.Tokens = make(map[string]map[string]string, len(tenants))
	for _, tenant := range tenants {
		info.Tokens[tenant] = make(map[string]string, len(roles))
		for _, role := range roles {
			token, err := i.ID(tenant, string(role)+"@"+tenant, role, tokenLife)
			if err != nil {
				return err
			}
			info.Tokens[tenant][string(role)] = token
		}
	}
	info.Machine = Machine{TokenURL: i.TokenURL(), ClientID: i.machine.ClientID, ClientSecret: i.machine.Secret}
	var err error
	if info.Refresher, err = i.Refresher(tokenLife); err != nil {
		return err
	}
	info.Operator, err = i.Operator(tokenLife)
	return err
}

// close ends the listener and its connections: nobody needs an answer any more.
func (i *issuer) close() {
	_ = i.server.Close() // the listener is gone either way
	<-i.done
}
