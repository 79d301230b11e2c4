// Package ssmbackend keeps values in AWS Systems Manager Parameter Store, one
// parameter per ID, under names that people and other tools use as well.
//
// # What is kept
//
// Version and history are Parameter Store's own: it keeps the newest 100
// versions of a parameter. A parameter of any type is served; a SecureString is
// a secret and is decrypted for each answer. The content type is not kept, it
// is what driver.InferType says. Who made a version and why stands in the
// version's description, which only the history shows.
//
// # Writes
//
// Parameter Store has one condition: that a parameter does not exist. Every
// other expected version is compared before the write and checked after it, by
// the version number that the write was given: Parameter Store counts in one
// place, so of all writers that expect version n only one is told n+1. Another
// one's value has then been written too, and that writer gets Conflict.
//
// A write is sent again only if it was refused before it was made (throttling,
// no connection), so no call ever makes two versions.
//
// An overwrite names again what the parameter has: type, tier, key, data type,
// pattern. Labels, tags and policies stay as long as nobody names them.
//
// # Lists
//
// Parameter Store pages by ten and promises no order. The first page of List
// therefore reads the whole folder that its key prefix lies in, up to maxFolder
// parameters, keeps the smallest keys, and remembers for some seconds which
// keys there are. A later page reads the values of its own keys anew.
package ssmbackend
