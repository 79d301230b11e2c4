// Package redisbackend is a tagstore backend on one Redis server.
//
// Every change is one Lua script, write.lua, which Redis runs alone: the
// comparison, the new version, the index and the log of changes are one step,
// whoever else writes. All keys begin with the namespace in braces, so that they
// lie in one slot:
//
//	{ns}:latest:<id>      the latest version of an ID, its tombstone if it is deleted
//	{ns}:older:<id>       hash: the versions before it, by number
//	{ns}:index:<scope>    sorted set: the live keys of a tenant and service
//	{ns}:changes:<scope>  stream: its newest changes, by sequence number
//	{ns}:scope:<scope>    hash: the sequence numbers of its last change, and of the
//	                      last that is not in the stream any more
//	{ns}:write:<tenant>:<key>  the result of a write with an idempotency key
//	{ns}:sequence, {ns}:size, {ns}:token, {ns}:layout
//
// where <id> and <scope> are the encodings of package config, which no two share.
package redisbackend
