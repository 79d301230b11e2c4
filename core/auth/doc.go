// Package auth turns the bearer token of a request into a Principal: which
// tenant is asking, who for it, with which role, until when. It is the only
// way to a tenant: nothing else of a request can name or widen one.
//
// Tokens are JWTs (RFC 7519) in the shape of Amazon Cognito, signed with RS256
// by a key that the issuer publishes in its JWKS (RFC 7517). A deployment
// takes one type of token, ID tokens unless set otherwise: Cognito puts custom
// attributes into access tokens only with a pre-token-generation trigger.
//
// # What is accepted
//
// A token is accepted when all of this holds, and a failure says which part
// did not, never what was in it:
//
//   - it has at most MaxToken bytes (checked before anything else), in exactly
//     three parts of unpadded, canonical base64url;
//   - its header holds alg, kid and maybe typ and nothing else (so no jwk, jku,
//     x5u, x5c, crit, b64, zip, enc), alg is "RS256", and typ, if there, is the
//     one of its type;
//   - kid names one of the issuer's published keys, and the signature is that
//     key's. A kid is looked up in a map, it is never part of a path or a query;
//   - no member of header or claims stands twice, at any depth, and none
//     differs only in case from one that is read here. encoding/json would let
//     either override the genuine one;
//   - iss is exactly the issuer, token_use the deployment's type, and aud (ID
//     token) or client_id (access token) one of the deployment's app clients;
//   - exp is a number and not yet reached, iat is a number, and neither iat nor
//     nbf, if there, lies more than a minute ahead. There is no leeway on exp;
//   - custom:tenantId is a string that config.ParseTenant accepts. There is no
//     default tenant;
//   - the caller has a role.
//
// The last two failing is PermissionDenied: the caller is known and has no
// business here. Everything else is Unauthenticated. Unavailable means that no
// key could be fetched yet, so that the token can be neither accepted nor
// refused.
//
// # Keys
//
// The key set is this package's own work over net/http. The usual library for
// it (MicahParks/keyfunc) spends a budget on tokens with unknown key ids, so
// one hostile token can lock out those signed by a freshly rotated key, for
// five minutes with its defaults. Here unknown key ids only ever bring the next
// refresh forward, to at least ten seconds after the last: a fresh key is
// accepted within 15 seconds whatever anybody sends, and once there are keys
// the issuer sees at most one request in ten seconds. A key that leaves the
// JWKS is refused, and tokens verified with it before are forgotten, from the
// next good refresh on, which is at most 15 minutes away while the JWKS can be
// had. While it can not, or holds no usable key, the last good keys stay, for
// as long as it takes.
package auth
