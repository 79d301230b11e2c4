package secretsbackend

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestStampsAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.SampledFrom([]string{"", "a9f6c6a2-2b0a-4c0e-8f4b-0f7a1f5d9f10"}).Draw(t, "before")
		made := newStamp(rapid.Uint64Range(1, maxNumber).Draw(t, "number"), rapid.Bool().Draw(t, "deleted"),
			time.UnixMilli(rapid.Int64Range(0, 1<<44-1).Draw(t, "at")), before)
		if len(made.id) != 64 { // what Secrets Manager takes is 32 to 64
			t.Fatalf("the ID %q has %d characters", made.id, len(made.id))
		}
		if got := readStamp(made.id); got != made {
			t.Fatalf("read %+v, made %+v", got, made)
		}
		if (made.before == "") != (before == "") || before != "" && made.before != digest(before) {
			t.Fatalf("made %+v after %q", made, before)
		}
	})
}

func TestForeignIDsAreNoStamps(t *testing.T) {
	good := newStamp(7, false, time.UnixMilli(1), "").id
	for _, id := range []string{
		"", "a9f6c6a2-2b0a-4c0e-8f4b-0f7a1f5d9f10", good[1:], good + "0", strings.ToUpper(good), strings.Replace(good, "-v", "-x", 1),
		strings.Replace(good, "v0000000007", "v0000000000", 1), strings.Replace(good, "v0000000007", "v+000000007", 1), good + "\n",
	} {
		if s := readStamp(id); s.own || s.number != 0 || s.id != id {
			t.Errorf("%q is read as %+v", id, s)
		}
	}
	if a, b := newStamp(1, false, time.Unix(1, 0), ""), newStamp(1, false, time.Unix(1, 0), ""); a.id == b.id {
		t.Error("two writers make the same ID")
	}
}

// line describes versions in order of creation, one word each: a name, "<" and
// the name of what it followed for one of tagstore's ("-" for the first), and
// labels behind colons. Numbers of tagstore's stand in the name: "t6<t5:c".
func line(text string) []kept {
	labels := map[string]string{"c": labelCurrent, "p": labelPrevious, "r": labelRotation, "x": labelPending, "z": "others"}
	ids := map[string]string{}
	var all []kept
	for i, word := range strings.Fields(text) {
		parts := strings.Split(word, ":")
		name, follows, own := strings.Cut(parts[0], "<")
		k := kept{stamp: stamp{id: "uuid-of-" + name}, created: time.Unix(1_700_000_000+int64(i), 0)}
		if own {
			var number uint64
			if _, err := fmt.Sscanf(strings.TrimRight(name, "'")[1:], "%d", &number); err != nil {
				panic(err)
			}
			k.stamp = newStamp(number, name[0] == 'd', k.created, ids[follows])
		}
		ids[name] = k.id
		for _, l := range parts[1:] {
			k.labels = append(k.labels, labels[l])
		}
		all = append(all, k)
	}
	return all
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct{ name, versions, want string }{
		{"none", "", ""},
		{"none that is current", "a b:p", ""},
		{"ours", "t1<- t2<t1:p t3<t2:c:x", "3 2 1"},
		{"a deletion", "t1<- d2<t1:p t3<d2:c", "3 2d 1"},
		{"a write that was not committed", "t1<- t2<t1:p t3<t2:c t4<t3:x", "3 2 1"},
		{"writes that lost, with the same number", "t1<- t2'<t1 t2<t1:p t2''<t1 t3<t2:c t3'<t2:x", "3 2 1"},
		{"older ones are gone", "t7<gone t8<t7:p t9<t8:c", "9 8 7"},
		{"others' only", "a b:p c:c", "3 2 1"},
		{"others' with labels of their own", "a:z b:p:z c:c:z", "3 2 1"},
		{"a rotation under way", "a b:c p:r", "2 1"},
		{"a rotation that has ended", "a b:p p:r:c", "3 2 1"},
		{"a rotation's version that was replaced twice", "a p:r y:p z:c", "4 3 1"},
		{"a rotation that another write overtook", "a p:r z:c", "3 1"},
		{"the same, when it ends", "a p:r:c z:p", "4 3 1"},
		{"moved back by hand", "a b:c c:p", "4 3 1"},
		{"ours on theirs", "a b:p t3<b:c", "3 2 1"},
		{"theirs on ours", "t1<- t2<t1:p a:c", "3 2 1"},
		{"theirs twice on ours: the upper of ours can not be told from one that failed", "t1<- t2<t1 a:p b:c", "4 3 1"},
		{"theirs on one of ours that failed", "t1<- t2<t1 t3<t2:x a:c", "4 2 1"},
		{"theirs on ours beside one that failed", "t1<- t2<t1:p t3<t2:x a:c", "4 2 1"},
		{"ours on theirs on ours", "t1<- t2<t1 a t4<a:p t5<t4:c", "5 4 3 1"},
		{"ours that failed after theirs", "t1<- a:c t3<a:x", "2"},
		{"a rotation that ends over ours", "t1<- p:r:c t2<t1:p", "3 2 1"},
		{"between ours: those that theirs replaced can not be told either", "t1<- a b t4<b c:p t6<c:c", "6 5 3 2"},
	} {
		var got []string
		for _, r := range rungs(line(c.versions)) {
			text := fmt.Sprint(r.number)
			if r.deleted {
				text += "d"
			}
			got = append(got, text)
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %q is numbered %q, want %q", c.name, c.versions, text, c.want)
		}
	}
}

// Numbers do not fall and are not used twice when Secrets Manager drops old
// versions, with nothing of tagstore's left to count from.
func TestNumbersWhereVersionsAreDropped(t *testing.T) {
	var all []kept
	seen := map[uint64]string{}
	last := uint64(0)
	for i := range 3 * keptVersions {
		for j := range all {
			all[j].labels = nil
		}
		if i > 0 {
			all[len(all)-1].labels = []string{labelPrevious}
		}
		all = append(all, kept{stamp: stamp{id: fmt.Sprint("uuid-", i)}, created: time.Unix(1_700_000_000+int64(i), 0), labels: []string{labelCurrent}})
		if len(all) > keptVersions {
			all = all[1:]
		}
		r := rungs(all)[0]
		if r.number <= last || seen[r.number] != "" {
			t.Fatalf("version %d has the number %d after %d", i, r.number, last)
		}
		last, seen[r.number] = r.number, r.id
	}
	all[len(all)-1].labels = []string{labelPrevious}
	own := newStamp(last+1, false, time.Unix(1_800_000_000, 0), all[len(all)-1].id)
	all = append(all, kept{stamp: own, created: time.Unix(1_800_000_000, 0), labels: []string{labelCurrent}})
	steps := rungs(all)
	if steps[0].number != last+1 || steps[1].number != last {
		t.Errorf("a write on top of them has number %d over %d, want %d over %d", steps[0].number, steps[1].number, last+1, last)
	}
}

// Whatever the listing holds, numbers fall strictly and no version is met twice.
func TestNumbersFall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []kept
		for i := range rapid.IntRange(0, 12).Draw(t, "versions") {
			k := kept{stamp: stamp{id: fmt.Sprint("uuid-", i)}, created: time.Unix(rapid.Int64Range(0, 9).Draw(t, "created"), 0)}
			if rapid.Bool().Draw(t, "own") {
				before := ""
				if i > 0 && rapid.Bool().Draw(t, "follows") {
					before = all[rapid.IntRange(0, i-1).Draw(t, "before")].id
				}
				k.stamp = newStamp(rapid.Uint64Range(1, 9).Draw(t, "number"), rapid.Bool().Draw(t, "deleted"), k.created, before)
			}
			all = append(all, k)
		}
		for _, l := range []string{labelCurrent, labelPrevious, labelRotation, labelPending} { // each on one at most
			if i := rapid.IntRange(-1, len(all)-1).Draw(t, l); i >= 0 {
				all[i].labels = append(all[i].labels, l)
			}
		}
		seen := map[string]bool{}
		last := ^uint64(0)
		for _, r := range rungs(all) {
			if r.number == 0 || r.number >= last || seen[r.id] {
				t.Fatalf("%+v after number %d in %+v", r, last, all)
			}
			last, seen[r.id] = r.number, true
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	m := newMemory()
	at := time.Unix(1_700_000_000, 0)
	for i := range rememberMost + 100 {
		m.note(fact{name: fmt.Sprint("s", i), arn: "a", number: 1, live: true, wrote: at})
	}
	if n := len(m.facts); n != rememberMost || m.order.Len() != n {
		t.Errorf("%d facts are kept, want %d", n, rememberMost)
	}
	if _, ok := m.of("s0", at); ok {
		t.Error("the oldest fact is kept over the newest")
	}
	m.note(fact{name: "n", arn: "a", number: 5, live: true, wrote: at.Add(rememberFor + time.Second)})
	if diff := cmp.Diff([]string{"n"}, m.live("", at.Add(rememberFor+time.Second))); diff != "" || len(m.facts) != 1 {
		t.Errorf("facts outlive their time (-want +got): %s", diff)
	}
	m.note(fact{name: "n", arn: "a", number: 4, live: false, wrote: at.Add(rememberFor + time.Second)})
	if f, _ := m.of("n", at); f.number != 5 {
		t.Errorf("an older fact replaced a newer one: %+v", f)
	}
	m.note(fact{name: "n", arn: "b", number: 1, live: true, wrote: at.Add(rememberFor + time.Second)})
	if f, _ := m.of("n", at); f.number != 1 {
		t.Errorf("another secret of the same name did not replace the one before: %+v", f)
	}
}
