// Package orders decides and keeps the orders of many tenants.
//
// An order is placed only by the configuration that the configuration service
// gave for this very request: there is no default provider, limit or currency,
// and nothing is remembered from one request to the next, so one tenant's
// configuration can not decide another's order. The order keeps the versions
// that it was decided by.
//
// Money is an integer in the minor unit of its currency (cents for USD) from 0
// to MaxAmount; sums that would pass it are errors, never other numbers.
package orders
