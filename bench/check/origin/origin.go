// Package origin lets a plugin process use a store that lives in another one:
// HTTP over a unix socket, one request for each call. Whatever happens to the
// plugins, or to whoever runs them, the store stays, and several of them share
// it.
package origin

import (
	"context"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// request is any call.
type request struct {
	IDs       []wireID `json:",omitempty"`
	Version   uint64   `json:",omitempty"`
	Tenant    string   `json:",omitempty"`
	Service   string   `json:",omitempty"`
	KeyPrefix string   `json:",omitempty"`
	PageSize  int      `json:",omitempty"`
	PageToken string   `json:",omitempty"`

	Value       []byte  `json:",omitempty"`
	ContentType string  `json:",omitempty"`
	Expect      *uint64 `json:",omitempty"`
	UpdatedBy   string  `json:",omitempty"`
	Message     string  `json:",omitempty"`
}

// response is any answer.
type response struct {
	Results []result `json:",omitempty"`
	Next    string   `json:",omitempty"`
	Err     *fault   `json:",omitempty"`
}

type result struct {
	Entry *wireEntry `json:",omitempty"`
	Err   *fault     `json:",omitempty"`
}

type wireID struct{ Tenant, Service, Key string }

type wireEntry struct {
	ID          wireID
	Value       []byte
	ContentType string
	Version     uint64
	Revision    string
	UpdatedAt   time.Time
	UpdatedBy   string
	Message     string
	Secret      bool
	Deleted     bool
}

type fault struct {
	Code       config.Code
	Message    string
	Hint       string
	Version    uint64
	RetryAfter time.Duration
}

func idToWire(id config.ID) wireID {
	return wireID{id.Tenant.String(), id.Service.String(), id.Key.String()}
}

func (w wireID) id() (config.ID, error) {
	tenant, err := config.ParseOwner(w.Tenant)
	if err != nil {
		return config.ID{}, err
	}
	service, err := config.ParseService(w.Service)
	if err != nil {
		return config.ID{}, err
	}
	key, err := config.ParseKey(w.Key)
	return config.ID{Tenant: tenant, Service: service, Key: key}, err
}

func toWire(e config.Entry, err error) result {
	if err != nil {
		return result{Err: faultOf(err)}
	}
	return result{Entry: &wireEntry{
		idToWire(e.ID), e.Value, e.ContentType, e.Version, string(e.Revision), e.UpdatedAt, e.UpdatedBy, e.Message, e.Secret, e.Deleted,
	}}
}

func (r result) entry() (config.Entry, error) {
	if r.Err != nil {
		return config.Entry{}, r.Err.err()
	}
	if r.Entry == nil {
		return config.Entry{}, errBroken
	}
	w := r.Entry
	id, err := w.ID.id()
	return config.Entry{
		ID: id, Value: w.Value, ContentType: w.ContentType, Version: w.Version, Revision: config.Revision(w.Revision),
		UpdatedAt: w.UpdatedAt, UpdatedBy: w.UpdatedBy, Message: w.Message, Secret: w.Secret, Deleted: w.Deleted,
	}, err
}

var errBroken = config.Errorf(config.Internal, "the origin's answer is not complete")

func faultOf(err error) *fault {
	e := config.AsError(err, "", config.Key{})
	return &fault{config.CodeOf(err), e.Message, e.Hint, e.Version, e.RetryAfter}
}

func (f *fault) err() error {
	switch f.Code {
	case config.Canceled:
		return context.Canceled
	case config.DeadlineExceeded:
		return context.DeadlineExceeded
	}
	return &config.Error{Code: f.Code, Message: f.Message, Hint: f.Hint, Version: f.Version, RetryAfter: f.RetryAfter}
}

func expectToWire(e driver.Expect) *uint64 {
	if v, set := e.Value(); set {
		return &v
	}
	return nil
}

func expect(wire *uint64) driver.Expect {
	if wire == nil {
		return driver.Any()
	}
	return driver.Version(*wire)
}
