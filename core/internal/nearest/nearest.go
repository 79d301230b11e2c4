// Package nearest finds what a misspelt name was meant to be.
package nearest

// maxEdits is how many bytes may have to be inserted, deleted or replaced.
const maxEdits = 2

// Of returns the candidate that s is most likely a misspelling of, the first
// of several that are equally near, or "" if none is near. A candidate that
// shares nothing with s is never near.
func Of(s string, candidates []string) string {
	found, least := "", maxEdits+1
	for _, c := range candidates {
		if d := distance(s, c); d < least && d < len(c) {
			found, least = c, d
		}
	}
	return found
}

// distance is the Levenshtein distance in bytes, or some number above maxEdits
// where the lengths alone say so.
func distance(a, b string) int {
	if d := len(a) - len(b); d > maxEdits || d < -maxEdits {
		return maxEdits + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
