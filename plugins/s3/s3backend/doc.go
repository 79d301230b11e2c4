// Package s3backend keeps values as objects of a versioned Amazon S3 bucket:
// one object per key, whose bytes are the value's, for documents that are too
// large elsewhere.
//
// # What is kept
//
// An object has the value's bytes and content type, and a record of 2 KB at
// most in its metadata: the number of the version, author and message. Every
// version of a value is a version of its object. A deleted key has a tombstone,
// which is a small object with a record, and a delete marker on top, so that
// other tools see the key as deleted too.
//
// # One order
//
// S3 lists the versions of an object in the order in which it stored them, and
// that order decides what is a version (see chain). So writers need no lock,
// and what a writer left half done is the same for every reader.
//
// A write carries If-None-Match or If-Match. That alone would not do: an ETag
// is a digest of the bytes, and a value that was changed and changed back has
// the ETag that it had before. A write that was made for the earlier version is
// then stored behind the later one. But the number in its record is not larger
// than that of the version below it in the list, and so it is void, from the
// first moment and for good: no reader answers it, and its writer removes it
// and reports the conflict. Only a tool that does not know of records can see
// such an object, and only until its writer has removed it.
//
// # One request
//
// To know that an object is no void one takes a look at the version list. Its
// writer takes it, and then tags the object. S3 says with every object how many
// tags it has, so a reader needs the list only for objects without one: those
// of other tools, and those whose writer was interrupted. What it found it
// remembers.
//
// # Page tokens
//
// Tokens are sealed with a key that is derived from the options that say where
// the store lies. They are good in every process with the same options, and
// protect against confusion, not against those who know the options.
package s3backend
