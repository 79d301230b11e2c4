// Package awsconn is what every AWS plugin needs of the SDK: configuration from
// the places where the SDK looks for it, a bounded retry, credentials per
// tenant, and errors in tagstore's own words.
//
// # Configuration
//
// Region, credentials and endpoints come from the SDK's default chain and from
// nowhere else: environment variables, the shared files, the container's and
// the instance's role. A plugin sees only those variables of the host that the
// manifest's env list names, so a missing one is reported with its name.
//
// # Retries
//
// The n calls of one Conn make at most n/20 + 10 retries, however many fail and in
// whichever way: a retry takes twenty tokens of a bucket of 200, every call that
// succeeds puts one back, and nothing else does. A store that is down or
// throttles is so sent what its callers ask for and not a multiple. Occasional
// failures, up to one call of twenty, are all retried.
//
// A write that must not be carried out twice is called with Once as its retryer.
// It is sent again only if the first time was surely not carried out.
//
// # Tenants
//
// With Options.TenantRole every tenant's calls can be made with a session of
// that role whose session tag "tenant" is the tenant, so that IAM itself keeps
// one tenant's calls from another's data. See Conn.Credentials.
//
// # Errors
//
// Error turns whatever the SDK returned into a config.Error. Its text is made of
// fixed sentences, the API operation's name and AWS's error code: what AWS or
// the network said in words is kept only as the cause, for the log of this side,
// since it may hold ARNs, account ids and paths.
package awsconn
