package emulators

import (
	"crypto/rand"
	"regexp"
	"strings"
	"testing"
)

var (
	notInNames = regexp.MustCompile(`[^a-z0-9]+`)
	// reserved is what AWS keeps to itself at the start of a parameter's or a
	// bucket's name, and what is not a letter.
	reserved = regexp.MustCompile(`^([^a-z]|aws|ssm|amzn-|sthree-|xn-)`)
)

// Name returns a name for a resource of this test that no other test, and no
// other call, gets. It tells people where it is from: it has prefix and the
// test's name in it. It is valid everywhere: as the name of a table, a bucket,
// a secret, a role session, a segment of a parameter's path or of an object's
// key. It has lower-case letters, digits and single hyphens, begins with a
// letter, ends with a letter or digit, and has between 12 and 63 characters.
func Name(t testing.TB, prefix string) string {
	// 12 characters of 5 random bits.
	unique := strings.ToLower(rand.Text()[:12])
	name := strings.Trim(part(prefix, 20)+"-"+part(t.Name(), 26)+"-"+unique, "-")
	name = strings.ReplaceAll(name, "--", "-")
	if reserved.MatchString(name) {
		name = "t-" + name
	}
	return name
}

// part is text as it may stand in a name, in no more than limit characters.
func part(text string, limit int) string {
	text = notInNames.ReplaceAllString(strings.ToLower(text), "-")
	return strings.Trim(text[:min(limit, len(text))], "-")
}
