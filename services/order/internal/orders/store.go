package orders

import (
	"context"

	"github.com/tagstore/tagstore/core/config"
)

// Store keeps orders. Everything it does is within one tenant: there is no way
// to ask it for an order without saying whose.
//
// Errors are *config.Error. A call whose context is done before the store
// begins to write returns the context's error and writes nothing. All methods
// may be called at once; after Close they return FailedPrecondition.
// Package storetest holds an implementation to this text.
type Store interface {
	// Create stores o durably: when it returns nil, o survives the death of
	// the process and is in the answers of every later call.
	//
	// With a key that o's tenant has used before it writes nothing and returns
	// the order that was made then and replayed true or, if the fingerprint
	// differs, code AlreadyExists; of several at once exactly one writes.
	// An ID that is taken is Internal. OutcomeUnknown says that o may or may
	// not have been stored, Unavailable that it was not.
	Create(ctx context.Context, o Order, once Once) (stored Order, replayed bool, err error)
	// Find returns the order that was created with this key, NotFound if none
	// was, and AlreadyExists if the fingerprint differs.
	Find(ctx context.Context, tenant config.Tenant, once Once) (Order, error)
	// Get returns one order. NotFound is the same error, whether the order
	// does not exist or is another tenant's.
	Get(ctx context.Context, tenant config.Tenant, id ID) (Order, error)
	// List returns up to limit of the tenant's orders with the greatest IDs
	// below before (the zero ID: of all), greatest first. The limit is positive.
	List(ctx context.Context, tenant config.Tenant, before ID, limit int) ([]Order, error)
	// Close ends the store. It returns nil when called again.
	Close() error
}

// Once makes the retries of one request make one order. The zero Once has no
// key and marks nothing.
type Once struct {
	Key         string // the client's own name for the request
	Fingerprint [32]byte
}
