// Package localbackend is the embedded default store: one bbolt file, no
// server, no account.
//
// # What is kept
//
// The file has one bucket of settings and four tables. Every record of a table
// ends with a CRC-32C over the table, the key and the content.
//
//	versions     id, version     -> one put or delete, with its value
//	current      id              -> the latest version, and whether it is live
//	changes      sequence number -> which id and version was made
//	idempotency  tenant, key     -> what was asked and what came of it
//
// A version is stored once. It stays as long as it is among the newest
// HistoryLimit of its id, or the change log still refers to it, or it is the
// newest that is known to be on disk.
//
// # Writes
//
// One goroutine writes. It takes every write that waits, up to a bound, applies
// them one after the other in one transaction, and answers them when the
// transaction has been fsynced. A write whose condition fails takes no other
// with it.
//
// # Reads
//
// bbolt shows a transaction to readers a moment before its last fsync returns.
// No read here looks at it: every read resolves what it finds as of the last
// sequence number that was acknowledged. A commit that fails is therefore never
// served, not even when its pages are in the file already.
//
// # Damage
//
// bbolt has no checksums of its own and trusts what it maps. So Open walks the
// whole file first, with bounds checked, and compares the set of keys of each
// table with a tally that every commit writes: a file with a page missing,
// moved, cut off or changed is refused. A record whose content alone is damaged
// costs that key, and answers DataLoss.
package localbackend
