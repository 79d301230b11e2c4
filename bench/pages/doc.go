// Package pages holds pages of the documentation against what they speak of. There
// is no code in it but tests.
package pages
