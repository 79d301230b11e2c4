// Package stack puts the templates of tagstore into an account, goes back to what
// was there before, and removes them again.
//
// What is to be done is worked out from the templates and the parameters alone,
// so it can be checked and shown without an account. What is done is done in
// steps, each of which looks first whether it is done already: an interrupted run
// is mended by running it again. Nothing that can not be made again is removed
// unless [Cleanup] was told so.
package stack
