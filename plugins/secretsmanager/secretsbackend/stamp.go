package secretsbackend

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// stamp is what a version's ID says. The ID of a version that another tool wrote
// says nothing: own is false and only id is set.
type stamp struct {
	id      string
	own     bool
	number  uint64
	deleted bool
	at      time.Time // UTC, whole milliseconds
	before  string    // digest of the version that this one replaced, "" for the first
}

// maxNumber is the largest number that an ID has room for.
const maxNumber = 9_999_999_999

// noDigest stands for the version before the first.
const noDigest = "00000000000000"

var ownID = regexp.MustCompile(`^tagstore-([vd])([0-9]{10})-([0-9a-f]{11})-[0-9a-f]{16}-([0-9a-f]{14})$`)

// newStamp makes the ID of a version that is to follow the version before ("" if
// there is none). It has 64 characters, which is what Secrets Manager allows.
func newStamp(number uint64, deleted bool, at time.Time, before string) stamp {
	s := stamp{own: true, number: number, deleted: deleted, at: time.UnixMilli(at.UnixMilli()).UTC()}
	kind, follows := "v", noDigest
	if deleted {
		kind = "d"
	}
	if before != "" {
		s.before = digest(before)
		follows = s.before
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand's documentation
	s.id = fmt.Sprintf("tagstore-%s%010d-%011x-%x-%s", kind, number, s.at.UnixMilli(), random, follows)
	return s
}

// readStamp reads the ID of any version.
func readStamp(id string) stamp {
	m := ownID.FindStringSubmatch(id)
	if m == nil {
		return stamp{id: id}
	}
	number, _ := strconv.ParseUint(m[2], 10, 64) // of the form that the expression says
	ms, _ := strconv.ParseInt(m[3], 16, 64)
	if number == 0 {
		return stamp{id: id}
	}
	s := stamp{id: id, own: true, number: number, deleted: m[1] == "d", at: time.UnixMilli(ms).UTC(), before: m[4]}
	if s.before == noDigest {
		s.before = ""
	}
	return s
}

// digest is what a version's ID is called in the ID of the one that follows it.
// No two IDs of one secret share it: they are at most a few hundred.
func digest(id string) string {
	sum := sha256.Sum256([]byte(id))
	p := hex.EncodeToString(sum[:7])
	if p == noDigest {
		return "00000000000001"
	}
	return p
}
