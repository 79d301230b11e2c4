// Package exchange carries calls of a plugin that have one answer over streams
// that stay open, several calls over one, instead of over a stream each. It
// holds both ends: Conn is the host's, Serve the plugin's.
//
// A stream carries one call at a time, so no call waits for another: a call that
// finds no stream free opens one, up to a bound, and beyond that bound is sent
// as a call of its own. That is why a call can be cancelled by what cancels its
// stream, and why a stream needs no reader beside the two that wait anyway.
//
// What a call of its own guarantees holds here too: the caller's deadline and
// cancellation reach the handler, the limits of a message hold, metadata
// crosses, a handler runs behind the same interceptors, an error arrives with
// its details, and of a call that failed it is known whether the plugin can have
// carried it out.
package exchange
