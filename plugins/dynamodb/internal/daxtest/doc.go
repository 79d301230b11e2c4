// Package daxtest is a DynamoDB Accelerator (DAX) node for tests: an endpoint
// that speaks the wire protocol of DAX to the real client library and keeps
// its items in whatever DynamoDB endpoint it is given.
//
// No DAX runs outside of AWS, and a test double of the client would only show
// what its author believes about it. The node here is as stale as a real one:
// it has an item cache with a time to live, caches that an item is missing,
// does not notice writes that go past it, and does not let any write touch its
// query cache. It also breaks on demand, see Fault.
//
// What it is not: several nodes that replicate to each other, consumed
// capacity and item collection metrics (both are never reported), and the
// control plane. What it says about caching follows the documentation of DAX;
// a real cluster may differ where that is silent.
package daxtest
