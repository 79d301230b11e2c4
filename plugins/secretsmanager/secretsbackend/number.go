package secretsbackend

import (
	"slices"
	"time"
)

// The staging labels that mean something.
const (
	labelCurrent  = "AWSCURRENT"
	labelPrevious = "AWSPREVIOUS"
	labelRotation = "AWSPENDING"
	// labelPending is on the version that tagstore wrote last. It is there
	// because a new version has to have some label, and takes one of the about 20
	// that a secret may have.
	labelPending = "tagstore-pending"
)

// keptVersions is how many versions Secrets Manager keeps at least. Where there
// are as many, older ones may be gone.
const keptVersions = 100

// kept is one version as ListSecretVersionIds tells it.
type kept struct {
	stamp
	created time.Time
	labels  []string
}

func (k kept) has(label string) bool { return slices.Contains(k.labels, label) }

// rotating tells a version that a rotation made and has not finished: it was
// never current.
func (k kept) rotating() bool {
	return k.has(labelRotation) && !k.has(labelCurrent) && !k.has(labelPrevious)
}

// rung is a version that was current once, with its number.
type rung struct {
	id      string
	own     bool
	number  uint64
	deleted bool
	at      time.Time
}

// rungs returns the versions that were current, newest first: the current one,
// then each the one that it replaced. Their numbers fall strictly. It is empty
// where no version is current.
//
// From a version that tagstore wrote the way down is certain: its ID names what
// it replaced. From one that another tool wrote it is told by the order of
// creation. There a version of tagstore's is taken for one that was current only
// if the label AWSPREVIOUS or a later ID says so: a write that never took effect
// looks the same.
func rungs(all []kept) []rung {
	all = slices.Clone(all)
	// Stable: the service lists them in order where the times are equal.
	slices.SortStableFunc(all, func(a, b kept) int { return a.created.Compare(b.created) })
	at := slices.IndexFunc(all, func(k kept) bool { return k.has(labelCurrent) })
	if at < 0 {
		return nil
	}
	c := climb{all: all, current: at}
	number := all[at].number
	if !all[at].own {
		number = c.foreignNumber()
	}
	for at >= 0 && number > 0 {
		c.add(at, number)
		at, number = c.below(at, number)
	}
	return c.rungs
}

type climb struct {
	all     []kept // in order of creation
	current int
	rungs   []rung
}

func (c *climb) add(i int, number uint64) {
	k := c.all[i]
	r := rung{id: k.id, own: k.own, number: number, deleted: k.deleted, at: k.created.UTC()}
	if k.own {
		r.at = k.at
	}
	c.rungs = append(c.rungs, r)
}

// foreignNumber returns the number of the current version where another tool
// wrote it. It is one more than that of anything that was there before it, writes
// that never took effect included, so that it does not depend on what they were.
// It never falls and is never used for two versions:
//
//   - A rotation makes its version first and makes it current later. What was
//     current in between counts too.
//   - Secrets Manager drops old versions. Where it may have dropped some, and no
//     version of tagstore's is left to count from, the seconds since 1970 at which
//     a version was made are its number.
func (c *climb) foreignNumber() uint64 {
	before := c.all[:c.current]
	inSeconds := len(c.all) >= keptVersions && !slices.ContainsFunc(before, func(k kept) bool { return k.own })
	var top, number uint64
	later := false
	for i, k := range c.all {
		switch {
		case k.own:
			if i < c.current || k.has(labelPrevious) {
				later = later || i > c.current
				top = max(top, k.number)
			}
			continue
		case i > c.current && k.rotating():
			continue
		}
		top++
		if inSeconds {
			top = max(top, uint64(max(k.created.Unix(), 0)))
		}
		if i == c.current {
			number = top
		} else if i > c.current {
			later = true
		}
	}
	if later {
		return top + 1
	}
	return number
}

// below returns the version that the one at i, with this number, replaced, and
// its number: -1 where none is known.
func (c *climb) below(i int, number uint64) (int, uint64) {
	if k := c.all[i]; k.own {
		return c.follow(k, number)
	}
	// Everything before it in time, and for the current version, which may have
	// been made current long after it was made, everything.
	candidate := func(j int) bool {
		k := c.all[j]
		if i != c.current || j < i {
			return j < i
		}
		return j > i && (k.own && k.has(labelPrevious) || !k.own && !k.rotating())
	}
	tip := -1 // tagstore's highest among them
	for j := range c.all {
		if candidate(j) && c.all[j].own && c.all[j].number < number && (tip < 0 || c.all[j].number >= c.all[tip].number) {
			tip = j
		}
	}
	for j := len(c.all) - 1; j > tip; j-- {
		if !candidate(j) || c.all[j].own || j != c.current && c.used(j) {
			continue
		}
		number--
		if number == 0 || tip >= 0 && number <= c.all[tip].number {
			break
		}
		if c.all[j].rotating() || j == c.current { // the place that it had before it was made current
			continue
		}
		return j, number
	}
	if tip < 0 || c.used(tip) {
		return -1, 0
	}
	if k := c.all[tip]; !k.has(labelPrevious) {
		return c.follow(k, k.number)
	}
	return tip, c.all[tip].number
}

func (c *climb) used(i int) bool {
	return slices.ContainsFunc(c.rungs, func(r rung) bool { return r.id == c.all[i].id })
}

// follow returns the version that an own one names as the one it replaced.
func (c *climb) follow(k kept, number uint64) (int, uint64) {
	if k.before == "" {
		return -1, 0
	}
	i := slices.IndexFunc(c.all, func(o kept) bool { return digest(o.id) == k.before })
	switch {
	case i < 0: // no longer kept
		return -1, 0
	case c.used(i), c.all[i].own && c.all[i].number >= number: // nobody writes this
		return -1, 0
	case !c.all[i].own:
		return i, number - 1
	}
	return i, c.all[i].number
}
