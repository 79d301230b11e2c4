// Package client calls the configuration service from Go.
//
// A Client is safe for concurrent use and holds one connection that is made
// when first needed and made again when lost. Whose configuration a call sees
// is decided by the bearer token in its context (ContextWithToken) and by
// nothing else. A token is only ever sent over TLS, a unix socket or the
// loopback interface, unless WithInsecure says otherwise.
//
// Every error is a *config.Error; its text holds no value and no token. A call
// whose context has no deadline gets one (WithTimeout), Watch excepted. Reads
// that fail with Unavailable are tried up to three times within the deadline;
// writes are never sent twice.
//
// Answers are checked against what was asked: an answer for another key,
// service or prefix is an error with code Internal and never data.
//
// WithStreams makes many Gets cheaper: they go over a stream for each token that
// stays open.
//
// A Cache in front of a Client answers reads from memory and is kept right by
// watches: for each token by itself, behind the service by no more than the lag
// that each answer tells. A Value reads a key as a type of the program.
package client
