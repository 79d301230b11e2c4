package origin

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// maxRequest bounds a request in bytes.
const maxRequest = 16 << 20

// Server answers the calls of plugins from one backend.
type Server struct {
	http *http.Server
	done chan struct{}
	err  error
}

// Serve listens on a unix socket. The backend must be a Batcher and a
// Historian; it is not closed.
func Serve(ctx context.Context, socket string, b driver.Backend) (*Server, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for name, do := range methods(b) {
		mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) { handle(w, r, do) })
	}
	s := &Server{http: &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.err = err
		}
	}()
	return s, nil
}

// Close ends all calls.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return errors.Join(err, s.err)
}

func handle(w http.ResponseWriter, r *http.Request, do func(context.Context, request) response) {
	var req request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&req); err != nil {
		http.Error(w, "the request is not JSON", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// Who has gone away needs no answer.
	_ = json.NewEncoder(w).Encode(do(r.Context(), req))
}

// methods are the calls by name.
func methods(b driver.Backend) map[string]func(context.Context, request) response {
	one := func(do func(context.Context, config.ID, request) (config.Entry, error)) func(context.Context, request) response {
		return func(ctx context.Context, r request) response {
			if len(r.IDs) != 1 {
				return response{Err: faultOf(errBroken)}
			}
			id, err := r.IDs[0].id()
			if err != nil {
				return response{Err: faultOf(err)}
			}
			return response{Results: []result{toWire(do(ctx, id, r))}}
		}
	}
	page := func(p driver.Page, err error) response {
		if err != nil {
			return response{Err: faultOf(err)}
		}
		out := response{Next: p.NextPageToken}
		for _, e := range p.Entries {
			out.Results = append(out.Results, toWire(e, nil))
		}
		return out
	}
	return map[string]func(context.Context, request) response{
		"get": one(func(ctx context.Context, id config.ID, r request) (config.Entry, error) {
			return b.Get(ctx, id, r.Version)
		}),
		"put": one(func(ctx context.Context, id config.ID, r request) (config.Entry, error) {
			return b.Put(ctx, driver.PutRequest{
				ID: id, Value: r.Value, ContentType: r.ContentType, Expect: expect(r.Expect), UpdatedBy: r.UpdatedBy, Message: r.Message,
			})
		}),
		"delete": one(func(ctx context.Context, id config.ID, r request) (config.Entry, error) {
			return b.Delete(ctx, driver.DeleteRequest{ID: id, Expect: expect(r.Expect), UpdatedBy: r.UpdatedBy, Message: r.Message})
		}),
		"list": func(ctx context.Context, r request) response {
			tenant, err1 := config.ParseOwner(r.Tenant)
			service, err2 := config.ParseService(r.Service)
			if err := errors.Join(err1, err2); err != nil {
				return response{Err: faultOf(config.Errorf(config.InvalidArgument, "the scope is not valid"))}
			}
			return page(b.List(ctx, driver.ListRequest{
				Tenant: tenant, Service: service, KeyPrefix: r.KeyPrefix, PageSize: r.PageSize, PageToken: r.PageToken,
			}))
		},
		"history": func(ctx context.Context, r request) response {
			h, ok := driver.AsHistorian(b)
			if !ok || len(r.IDs) != 1 {
				return response{Err: faultOf(errBroken)}
			}
			id, err := r.IDs[0].id()
			if err != nil {
				return response{Err: faultOf(err)}
			}
			return page(h.History(ctx, driver.HistoryRequest{ID: id, PageSize: r.PageSize, PageToken: r.PageToken}))
		},
		"batch": func(ctx context.Context, r request) response { return batch(ctx, b, r) },
		"ping": func(ctx context.Context, _ request) response {
			if p, ok := driver.AsPinger(b); ok {
				if err := p.Ping(ctx); err != nil {
					return response{Err: faultOf(err)}
				}
			}
			return response{}
		},
	}
}

func batch(ctx context.Context, b driver.Backend, r request) response {
	batcher, ok := driver.AsBatcher(b)
	if !ok {
		return response{Err: faultOf(errBroken)}
	}
	ids := make([]config.ID, len(r.IDs))
	for i, w := range r.IDs {
		var err error
		if ids[i], err = w.id(); err != nil {
			return response{Err: faultOf(err)}
		}
	}
	results, err := batcher.BatchGet(ctx, ids)
	if err != nil {
		return response{Err: faultOf(err)}
	}
	var out response
	for _, each := range results {
		out.Results = append(out.Results, toWire(each.Entry, each.Err))
	}
	return out
}
