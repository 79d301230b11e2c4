package telemetry

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// readyTimeout is what a process that is ready needs by far less than.
const readyTimeout = 3 * time.Second

// AskReady asks the process on this machine whose management listener is at
// listen, host:port as its setting has it, whether it is ready. It returns nil if
// it is. This is what a container's health check runs, where there is no curl.
func AskReady(ctx context.Context, listen string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return config.Errorf(config.InvalidArgument, "the management listener's address is not host:port").WithCause(err)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return config.Errorf(config.InvalidArgument, "the management listener's address is not host:port").WithCause(err)
	}
	// A transport of its own: no proxy stands between a process and itself.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return config.Errorf(config.Unavailable, "the management listener does not answer").WithCause(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return config.Errorf(config.Unavailable, "it is not ready: %s", response.Status)
	}
	return nil
}
