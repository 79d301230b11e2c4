// Package config is the vocabulary of tagstore: the values that every other
// package passes around. It imports the standard library only.
//
// Text from outside becomes one of these types exactly once, at the edge, by a
// Parse function; from there on the type is the proof that the text is valid.
// The zero value of Tenant, Key and ID is invalid and IsZero tells it.
package config
