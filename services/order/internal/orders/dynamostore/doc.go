// Package dynamostore keeps orders in one DynamoDB table, which any number of
// processes may share.
//
// Every item of a tenant is in one partition:
//
//	pk              sk            what
//	TENANT#<name>   ORDER#<id>    an order
//	TENANT#<name>   ONCE#<hash>   the order that a request key has made; the
//	                              hash is SHA-256's of the key
//
// An order and the record of its key are written in one transaction. The
// record has no time to live: a key is remembered as long as its order, and
// nothing deletes an order. All reads are strongly consistent, so an order that
// Create returned is in every later answer of every process.
//
// A partition takes about 1000 write units per second, and one tenant's newest
// orders are in one. An order with a key costs 4 units or more (two items, and
// a transaction costs double), so one tenant has about 250 orders per second.
package dynamostore
