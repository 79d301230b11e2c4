package daxread

import (
	"net"
	"net/url"
	"strconv"
)

// The ports of DAX, without and with TLS.
const (
	plainPort = "8111"
	tlsPort   = "9111"
)

// endpoint is where a cluster is found.
type endpoint struct {
	host, port string
	tls        bool
}

func (e endpoint) address() string { return net.JoinHostPort(e.host, e.port) }

// parseEndpoint reads an endpoint as the AWS console shows it, or says what is
// wrong with it.
func parseEndpoint(s string) (e endpoint, wrong string) {
	if s == "" {
		return e, `the endpoint is missing: write the cluster's endpoint like "daxs://name.id.dax-clusters.region.amazonaws.com"`
	}
	u, err := url.Parse(s)
	if err != nil {
		return e, `the endpoint is not a URL: write it like "dax://host:8111" or "daxs://host:9111"`
	}
	switch u.Scheme {
	case "dax":
		e.port = plainPort
	case "daxs":
		e.port, e.tls = tlsPort, true
	default:
		return e, `the endpoint does not begin with "dax://" or "daxs://"`
	}
	if e.host = u.Hostname(); e.host == "" {
		return e, "the endpoint has no host"
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return e, "the endpoint's port is not between 1 and 65535"
		}
		e.port = port
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && u.Path != "/") {
		return e, "the endpoint has more than a scheme, a host and a port"
	}
	return e, ""
}
