// Package cache keeps what stores answered in memory, so that an answer costs
// no call and is still never older than what this process acknowledged.
//
// A Cache belongs to one replica. Wrap puts it in front of one route's
// backend; the result is a driver.Backend that keeps the contract, and beside
// it answers Read with the freshness of what it says, Refresh for those who
// announce changes, and Watch over stores that can not be watched.
//
// # Promise
//
// An answer that is not marked config.StateStale is never older than any write
// or Refresh of its ID that this Cache had acknowledged before the question
// was asked. A change that nobody announced is seen within the route's
// MaxStaleness. While its store is out of reach, what is held goes on being
// served: marked degraded while it is younger than MaxStaleness, then marked
// stale, up to StaleIfError.
//
// # Protocol
//
// The table that holds the records may lose, drop, delay and reorder whatever
// it is given: nothing depends on a deletion, on a time to live, or on the
// order of two Sets. Whether a record may be used is decided when it is read.
//
// A logical clock counts invalidations. Each one stores the clock's new value
// in the stripe of the ID's hash. A record carries the clock as it was before
// its backend was asked (born), and is valid while born is not below the
// stripe of its ID, that of its tenant and the epoch of the whole cache. A
// fill that was under way during an invalidation therefore stores a record
// that nobody uses, however late it does. Several questions share one call of
// the backend, but only a call whose born is valid for the asker.
//
// A write or Refresh puts its own value in place only if no other invalidation
// of that stripe or tenant came between the moment before its call and its
// own. Else it leaves nothing behind, and the next read asks.
//
// The identity in a record is compared with what is asked for on every hit: a
// collision of hashes is a miss and never an answer.
//
// What is marked secret is never put into the table, nor kept for watchers.
package cache
