// Package server is the REST side of the order service.
//
// Whose orders a request is about is decided by its verified bearer token and
// by nothing else of it. A request is read strictly: what is not understood is
// refused, not ignored. Every error is problem+json (RFC 9457), and none holds
// a token, a configuration value, or the name of a tenant. The answer for
// another tenant's order is, byte for byte, the one for an order that never
// was; the request id, which differs, is in a header there.
package server
