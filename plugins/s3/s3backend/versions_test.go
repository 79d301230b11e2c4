package s3backend

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lineOf reads "b1", "T1", "m2*": a name, the second, and a star for what is
// current. m is a delete marker, T what can be a tombstone.
func lineOf(text string) entry {
	name, current := strings.CutSuffix(text, "*")
	e := entry{id: text, etag: text, current: current, modified: time.Unix(int64(name[len(name)-1]-'0'), 0), marker: name[0] == 'm'}
	if name[0] == 'T' {
		e.size = tombstoneSize
	}
	return e
}

// S3's own order is not touched, whatever it is; the two lists of other servers
// are put together.
func TestOrderOfTheVersionList(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ listed, want string }{
		{"", ""},
		{"b2* a1", "b2* a1"},
		{"m1* m1", "m1* m1"},
		// S3.
		{"m1* T1 a1", "m1* T1 a1"},
		{"b1* m1 T1 a1", "b1* m1 T1 a1"},
		{"b9* m5 T7 a1", "b9* m5 T7 a1"}, // an object that took its time to upload
		{"b2* a1 m1", "b2* a1 m1"},       // a marker on nothing
		{"c1* b1 m1", "c1* b1 m1"},       // the page ends here
		{"T1* a1", "T1* a1"},
		// Others.
		{"T1 a1 m1*", "m1* T1 a1"},
		{"T2 a1 m3*", "m3* T2 a1"},
		{"b4* T2 a1 m3", "b4* m3 T2 a1"},
		{"b2* T2 a1 m2", "b2* m2 T2 a1"},
		{"c2* b2 T2 a1 m2", "c2* b2 m2 T2 a1"},
		{"T3 b3 T3 a1 m3* m3", "m3* T3 b3 m3 T3 a1"},
		{"b2* a1 m2", "b2* m2 a1"},
	} {
		var lines []entry
		for _, text := range strings.Fields(c.listed) {
			lines = append(lines, lineOf(text))
		}
		got := []string{}
		for _, e := range inOrder(slices.Clone(lines)) {
			got = append(got, e.id)
		}
		if diff := cmp.Diff(strings.Fields(c.want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.listed, diff)
		}
	}
}
