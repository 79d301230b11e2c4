// Package dynamodbbackend keeps tagstore's values in one DynamoDB table, in the
// shape that other tools read and write too.
//
// # Table model
//
// The keys are pk (HASH) and sk (RANGE), both text:
//
//	TENANT#<tenant>                       CONFIG#<name>             the current item
//	TENANT#<tenant>|SERVICE#<service>     CONFIG#<name>             that of a service
//	the same                              HISTORY#<name>#<version>  one version
//	TENANT#<tenant>                       IDEM#<hash>               one idempotency key
//
// A current item has config (a native map, list or scalar for JSON, text or
// bytes for the rest), isActive, version, createdAt, updatedAt, updatedBy,
// message, and contentType where the value is not JSON. Attributes that the
// plugin does not know are kept by every write.
//
// # Fidelity
//
// A reader gets the bytes that were put. Native attributes know neither the
// order of keys nor white space nor 1.0, so the plugin compares what they give
// back with what was put, and where the two differ keeps the bytes as well, in
// the attribute tagstore: packed, with the canonical text as the dictionary.
// They are used only as long as config is what it was when they were written.
// What no native attribute can hold (39 digits, an empty key, 31 levels) is
// stored as bytes alone.
//
// # Writes
//
// Every write is one TransactWriteItems: an Update of the current item under a
// condition, a Put of the version's history record, which must not exist yet,
// and what else belongs to it. The condition is the version, so that nothing has
// to be read first; if it is broken the answer carries the item that broke it.
//
// # Other tools
//
// The attribute tagstore repeats version, updatedAt and isActive of the plugin's
// last write, with a digest of its value. The condition compares them with the
// item's own. So a write of another tool is noticed in the very transaction that
// would bury it, and the next try puts it into history first. What the plugin
// can not notice so is a change of config alone, with neither version nor
// updatedAt nor isActive, that nobody has read through the plugin since: it is
// served, but a write that expects the version before replaces it without a
// record.
//
// # Reads
//
// By default all reads are strongly consistent. With eventually consistent
// reads, or DAX, floors say for every ID what this process knows to be there:
// see type floors.
package dynamodbbackend
