// Package secretsbackend is the store of secrets: AWS Secrets Manager.
//
// # What is kept
//
// One secret per ID, under the name that package keypath makes of it. The value
// lies in it as every other tool expects it: text as SecretString, anything else
// as SecretBinary. What tagstore needs beyond that stands in the version's ID,
// which the writer of a version chooses:
//
//	tagstore-v0000000012-018f3a2b4c5-3f9a6c1d77e05b42-91c0ffee00aa51
//	         ^ ^          ^          ^                ^
//	         | number     time       random           what it followed
//	         v: a value, d: a deletion
//
// "What it followed" is a digest of the ID of the version that it replaced, so
// the versions form a chain from the current one down. A version that is not on
// the chain was never current and is never served, whatever its number says.
//
// # Writes
//
// A write takes three calls: DescribeSecret, PutSecretValue under a label of
// tagstore's own, which changes nothing that anybody reads, and then
// UpdateSecretVersionStage, which moves AWSCURRENT from the expected version to
// the new one and fails if it is not there. That one call is the commit. A writer
// that dies before it leaves a version behind that nobody sees and that is in
// nobody's way, since the next one has another random part; Secrets Manager
// clears it away as it does with all versions without labels.
//
// A deletion is a version too, committed the same way. Then DeleteSecret starts
// the recovery window. It has no condition, so nothing depends on it: whether a
// secret is deleted is told by its current version.
//
// Versions that other tools wrote have UUIDs as IDs. They are numbered by the
// order of their creation, relative to the numbered ones around them: number.go.
package secretsbackend
