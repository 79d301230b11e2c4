// Package lambdaruntime runs the program of a Lambda function on this machine,
// as Lambda does: it serves the Runtime API
// (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html) on loopback,
// starts the program with an environment of its own, and hands it one event at
// a time.
//
// Around that it does what Lambda does with failures: an event that was sent
// without waiting for its result is tried twice more, and a batch of a stream is
// tried again from the record that failed. The delays, which are minutes at
// Lambda, are options.
//
// What it does not do: no limits of memory or size, no concurrency above one, no
// throttling, no permissions, no layers or extensions.
package lambdaruntime
