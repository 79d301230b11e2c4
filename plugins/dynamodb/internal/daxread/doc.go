// Package daxread reads items through a DynamoDB Accelerator (DAX) cluster:
// eventually consistent reads by key, and nothing else.
//
// A cluster is a cache in front of the table, so no read may depend on it. The
// caller reads from DynamoDB whenever a read here fails; what this package
// promises is that failing is cheap and that an answer is the right one:
//
//   - A call takes no longer than Options.RequestTimeout, retries included.
//   - A cluster that does not answer opens a circuit: further calls fail at
//     once with ErrUnavailable, and one call now and then tries the cluster.
//   - An answer whose keys are not those that were asked for is an error, and
//     so is everything that the client library panics about.
//   - Numbers have the form that DynamoDB gives them.
//
// The DAX client library fills the key that was asked for into the answer of a
// GetItem without looking at what the cluster read. Client.GetItem therefore
// sends a BatchGetItem of one key, whose answer carries the key.
package daxread
