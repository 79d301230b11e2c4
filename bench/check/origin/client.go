package origin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Options are the plugin's.
type Options struct {
	// Socket is the path of the unix socket that Serve listens on.
	Socket string `json:"socket"`
}

// Open returns the store behind a socket. It can not be watched.
func Open(ctx context.Context, o Options) (driver.Backend, error) {
	if o.Socket == "" {
		return nil, config.Errorf(config.InvalidArgument, "option socket is missing").WithHint("set it to the path of the origin's socket")
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", o.Socket)
	}
	// That there is an origin has to be so; that its store answers need not: a
	// replica is also started while it does not.
	conn, err := dial(ctx, "", "")
	if err != nil {
		return nil, config.Errorf(config.Unavailable, "the origin can not be reached").WithCause(err)
	}
	conn.Close()
	return &backend{http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64}}}, nil
}

type backend struct {
	http   *http.Client
	closed atomic.Bool
}

var (
	_ driver.Batcher   = (*backend)(nil)
	_ driver.Historian = (*backend)(nil)
	_ driver.Pinger    = (*backend)(nil)
)

// call makes one call; broken is the code of one whose fate is not known.
func (b *backend) call(ctx context.Context, name string, r request, broken config.Code) (response, error) {
	if err := ctx.Err(); err != nil {
		return response{}, err
	}
	if b.closed.Load() {
		return response{}, config.Errorf(config.FailedPrecondition, "the backend is closed")
	}
	body, err := json.Marshal(r)
	if err != nil {
		return response{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://origin/"+name, bytes.NewReader(body))
	if err != nil {
		return response{}, err
	}
	var out response
	resp, err := b.http.Do(req)
	if err == nil {
		defer resp.Body.Close()
		err = json.NewDecoder(resp.Body).Decode(&out)
	}
	var dial *net.OpError
	switch {
	case err != nil && ctx.Err() != nil:
		return response{}, ctx.Err()
	case errors.As(err, &dial) && dial.Op == "dial":
		return response{}, config.Errorf(config.Unavailable, "the origin can not be reached").WithCause(err)
	case err != nil:
		return response{}, config.Errorf(broken, "the origin did not answer").WithCause(err)
	case out.Err != nil:
		return response{}, out.Err.err()
	}
	return out, nil
}

func (b *backend) one(ctx context.Context, name string, r request, broken config.Code) (config.Entry, error) {
	out, err := b.call(ctx, name, r, broken)
	if err != nil {
		return config.Entry{}, err
	}
	if len(out.Results) != 1 {
		return config.Entry{}, errBroken
	}
	return out.Results[0].entry()
}

func (b *backend) page(ctx context.Context, name string, r request) (driver.Page, error) {
	out, err := b.call(ctx, name, r, config.Unavailable)
	if err != nil {
		return driver.Page{}, err
	}
	page := driver.Page{NextPageToken: out.Next}
	for _, each := range out.Results {
		e, err := each.entry()
		if err != nil {
			return driver.Page{}, err
		}
		page.Entries = append(page.Entries, e)
	}
	return page, nil
}

// Get implements driver.Backend.
func (b *backend) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	return b.one(ctx, "get", request{IDs: []wireID{idToWire(id)}, Version: version}, config.Unavailable)
}

// Put implements driver.Backend.
func (b *backend) Put(ctx context.Context, r driver.PutRequest) (config.Entry, error) {
	return b.one(ctx, "put", request{
		IDs: []wireID{idToWire(r.ID)}, Value: r.Value, ContentType: r.ContentType, Expect: expectToWire(r.Expect),
		UpdatedBy: r.UpdatedBy, Message: r.Message,
	}, config.OutcomeUnknown)
}

// Delete implements driver.Backend.
func (b *backend) Delete(ctx context.Context, r driver.DeleteRequest) (config.Entry, error) {
	return b.one(ctx, "delete", request{
		IDs: []wireID{idToWire(r.ID)}, Expect: expectToWire(r.Expect), UpdatedBy: r.UpdatedBy, Message: r.Message,
	}, config.OutcomeUnknown)
}

// List implements driver.Backend.
func (b *backend) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	return b.page(ctx, "list", request{
		Tenant: r.Tenant.String(), Service: r.Service.String(), KeyPrefix: r.KeyPrefix, PageSize: r.PageSize, PageToken: r.PageToken,
	})
}

// History implements driver.Historian.
func (b *backend) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	return b.page(ctx, "history", request{IDs: []wireID{idToWire(r.ID)}, PageSize: r.PageSize, PageToken: r.PageToken})
}

// BatchGet implements driver.Batcher.
func (b *backend) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	var r request
	for _, id := range ids {
		r.IDs = append(r.IDs, idToWire(id))
	}
	out, err := b.call(ctx, "batch", r, config.Unavailable)
	if err != nil {
		return nil, err
	}
	results := make([]driver.Result, len(out.Results))
	for i, each := range out.Results {
		results[i].Entry, results[i].Err = each.entry()
	}
	return results, nil
}

// Ping implements driver.Pinger.
func (b *backend) Ping(ctx context.Context) error {
	_, err := b.call(ctx, "ping", request{}, config.Unavailable)
	return err
}

// Close implements driver.Backend.
func (b *backend) Close() error {
	b.closed.Store(true)
	b.http.CloseIdleConnections()
	return nil
}
