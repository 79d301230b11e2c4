// Package pluginhost runs storage plugins: one process each, started,
// configured, supervised and ended, and presented as a driver.Backend that
// outlives its restarts.
//
// # What a Process guarantees
//
// It is published only behind a handshake, a health check, Describe and
// Configure, all within Options.StartTimeout. Each launch is a fresh process
// with a fresh connection, socket folder and generation number.
//
// Every call has a deadline: the caller's, or Plugin.CallTimeout if that is
// sooner. Watch alone has none but the caller's; it ends with the process.
//
// When the process dies, or its connection breaks, or it does not answer three
// health checks in a row, it is killed with its whole process group and started
// again: a plugin that had been answering calls within a second, one that does
// not come up with delays that grow to 30 s (full jitter), until 60 s of health
// reset them. Calls that come meanwhile wait, within their deadline.
//
// A Get, BatchGet, List, History, Ping or Size that a dead process left
// unanswered is sent once more, to its successor, within the same deadline. A
// Put or Delete never is: it is OutcomeUnknown if the request may have reached
// the plugin and Unavailable if it did not. A Watch ends with Unavailable; the
// caller resumes it from the last position that it saw. Errors that the plugin
// itself answered pass through as they are and cause no restart.
//
// What a plugin answers is decoded as hostile: an answer that breaks the
// protocol is Internal and none of it is used. Whether an entry is the one that
// was asked for is for package store to check, on every backend alike.
//
// # What a plugin process gets
//
// A process group and a working directory of its own; as environment, the
// variables that its manifest entry names plus three of the protocol; an empty
// standard input; a socket folder of mode 0700 that only this launch uses. Its
// standard output and error go to the log, line by line, and never block it.
// On Linux the kernel kills it when the host dies, however that happens.
package pluginhost
