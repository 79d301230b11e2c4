// Package fanout has every healthy replica of the configuration service read
// what has changed anew, and says which of them did.
//
// A Fanout discovers the replicas for each call, asks them all at once and,
// where some do not acknowledge, discovers them again after a moment: replicas
// that are gone need not know of the change and are left out, those that are
// new are asked, and those that are still there and failed are asked once more
// if their time allows. A replica has the time of one call for all that.
//
// Every wait is bounded: a discovery and a replica by Options.CallTimeout, and
// the whole by the caller's context. So is what runs at once: 64 calls of one
// Refresh, and 64 calls to one replica over all of them; a call beyond that is
// an error with code ResourceExhausted for that replica at once, so that a
// replica that hangs does not pile up the changes of everybody. More than 1,000
// replicas are an error.
//
// Errors are *config.Error and hold neither a value, a token nor a tenant.
package fanout
