// Package drivertest holds a backend against the numbered clauses of package
// driver. A plugin author writes one line:
//
//	func TestConformance(t *testing.T) {
//		drivertest.Run(t, drivertest.Caps{History: true}, open)
//	}
//
// where open returns a [Harness] on an empty store of its own. Every case is a
// subtest, so that `go test -run 'TestConformance/list/order'` runs one, and
// one that fails prints the clause that was broken. A case is skipped only if
// it needs a capability that is not claimed, or something that the harness
// does not offer; the count of both stands at the end of `go test -v`.
//
// [Examine] is the same for programs that are no test.
//
// [Fuzz] compares the backend with package memdriver over random calls, and
// [Bench] measures it.
package drivertest
