package command

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/cli/internal/dev"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// maxToken bounds what is read of a token file; a service takes far less.
const maxToken = 64 << 10

// connect returns a client and a context that carries the token. The caller
// closes the client.
func (a *app) connect(cmd *cobra.Command) (*client.Client, context.Context, error) {
	address, token, err := a.target(cmd)
	if err != nil {
		return nil, nil, err
	}
	options := []client.Option{client.WithTimeout(a.global.timeout)}
	secure, err := a.tlsConfig(cmd)
	if err != nil {
		return nil, nil, err
	}
	if secure != nil {
		options = append(options, client.WithTLS(secure))
	}
	if a.global.insecure {
		options = append(options, client.WithInsecure())
	}
	c, err := client.New(address, options...)
	if err != nil {
		e := config.AsError(err, "", config.Key{})
		return nil, nil, usagef(cmd, "--address: %s (for another machine add --tls or --tls-ca FILE)", e.Message)
	}
	return c, client.ContextWithToken(cmd.Context(), token), nil
}

// target decides where to connect and with which token: flag before variable
// before dev.json. The token of dev.json is never sent to another address.
func (a *app) target(cmd *cobra.Command) (address, token string, err error) {
	address = a.global.address
	token, from, err := a.givenToken(cmd)
	if err != nil {
		return "", "", err
	}
	if from != "" {
		for _, flag := range []string{"tenant", "role"} {
			if a.global.given[flag] {
				return "", "", usagef(cmd, "--%s picks a development token, but %s gives the token: leave out one of them", flag, from)
			}
		}
	}
	if address != "" && from != "" {
		return address, token, nil
	}
	info, file, err := a.devInfo()
	switch {
	case errors.Is(err, fs.ErrNotExist) && address == "":
		return "", "", local(config.Unavailable,
			"start the system here with 'make run' or 'tagctl dev', or set TAGCTL_ADDRESS and TAGCTL_TOKEN_FILE (or TAGCTL_TOKEN)",
			"there is nothing to connect to: no --address, no TAGCTL_ADDRESS, no %s", file)
	case errors.Is(err, fs.ErrNotExist):
		return "", "", noToken("no --token, no --token-file and none of their variables is set")
	case err != nil:
		return "", "", err
	case address == "":
		address, a.dev = info.ConfigGRPC, true
	case address != info.ConfigGRPC:
		return "", "", noToken("the tokens in " + file + " are for another address")
	}
	if from == "" {
		token, err = a.devToken(cmd, info)
	}
	return address, token, err
}

func noToken(why string) error {
	return local(config.Unauthenticated, "set TAGCTL_TOKEN_FILE or TAGCTL_TOKEN", "there is no token to connect with: %s", why)
}

// givenToken returns the token of a flag or variable and which one it was, ""
// if there is none.
func (a *app) givenToken(cmd *cobra.Command) (token, from string, err error) {
	g := &a.global
	if g.given["token"] && g.given["token-file"] {
		return "", "", usagef(cmd, "--token and --token-file exclude each other")
	}
	switch {
	case g.given["token"]:
		return a.checkedToken(cmd, g.token, "--token")
	case g.given["token-file"]:
		return a.tokenOfFile(cmd, "--token-file")
	case g.fromEnv["token"]:
		return a.checkedToken(cmd, g.token, envPrefix+"TOKEN")
	case g.fromEnv["token-file"]:
		return a.tokenOfFile(cmd, envPrefix+"TOKEN_FILE")
	}
	return "", "", nil
}

func (a *app) tokenOfFile(cmd *cobra.Command, from string) (string, string, error) {
	f, err := os.Open(a.global.tokenFile)
	if err != nil {
		return "", "", usagef(cmd, "%s: %w", from, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", "", usagef(cmd, "%s: %w", from, err)
	}
	return a.checkedToken(cmd, strings.TrimSpace(string(text)), from)
}

// checkedToken refuses what can not be a token before it becomes part of a
// header: RFC 6750 section 2.1 allows visible ASCII only.
func (a *app) checkedToken(cmd *cobra.Command, token, from string) (string, string, error) {
	if token == "" {
		return "", "", usagef(cmd, "%s holds no token", from)
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return "", "", usagef(cmd, "%s holds something that is not a token", from)
		}
	}
	return token, from, nil
}

func (a *app) devToken(cmd *cobra.Command, info dev.Info) (string, error) {
	switch a.global.role {
	case "refresher":
		return info.Refresher, nil
	case "operator":
		if info.Operator == "" {
			return "", local(config.FailedPrecondition, "stop 'tagctl dev' and start it again", "the running system is of an older version, and has no token for operators")
		}
		return info.Operator, nil
	}
	roles, ok := info.Tokens[a.global.tenant]
	if !ok {
		return "", usagef(cmd, "there is no development token for this --tenant; there are %s", strings.Join(info.Tenants(), ", "))
	}
	token, ok := roles[a.global.role]
	if !ok {
		return "", usagef(cmd, "--role is not one of reader, editor, admin, refresher, operator")
	}
	return token, nil
}

// devInfo reads dev.json and returns where it is, found or not. A missing file
// is fs.ErrNotExist.
func (a *app) devInfo() (dev.Info, string, error) {
	dir := dev.Dir(a.getenv)
	info, err := dev.ReadInfo(dir)
	return info, dev.InfoPath(dir), err
}

// tlsConfig returns nil for plaintext.
func (a *app) tlsConfig(cmd *cobra.Command) (*tls.Config, error) {
	g := &a.global
	if (g.tlsCert == "") != (g.tlsKey == "") {
		return nil, usagef(cmd, "--tls-cert and --tls-key go together")
	}
	if !g.tls && g.tlsCA == "" && g.tlsCert == "" {
		return nil, nil
	}
	if g.insecure {
		return nil, usagef(cmd, "--insecure and TLS exclude each other")
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if g.tlsCA != "" {
		pem, err := os.ReadFile(g.tlsCA)
		if err != nil {
			return nil, usagef(cmd, "--tls-ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usagef(cmd, "--tls-ca: the file holds no PEM certificate")
		}
	}
	if g.tlsCert != "" {
		pair, err := tls.LoadX509KeyPair(g.tlsCert, g.tlsKey)
		if err != nil {
			return nil, usagef(cmd, "--tls-cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (a *app) tokenCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "token",
		GroupID: groupSystem,
		Short:   "Print the token that the other verbs would use",
		Long: `Print the token that the other verbs would use: in development the one of
--tenant and --role. Anyone who reads it can act with it until it expires.`,
		Example: `  curl -H "Authorization: Bearer $(tagctl token --tenant globex-inc)" "$(tagctl info order_http)/v1/orders"
  tagctl token --role reader
  tagctl token --role operator -o json`,
		Args: cobra.NoArgs,
		RunE: a.run(func(cmd *cobra.Command, _ []string) error {
			_, token, err := a.target(cmd)
			if err != nil {
				return err
			}
			if a.global.output == outputJSON {
				return a.printJSON(struct {
					Token string `json:"token"`
				}{token})
			}
			return a.print(token + "\n")
		}),
	}
}
