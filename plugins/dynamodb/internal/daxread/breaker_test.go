package daxread

import (
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	var now clock
	b := &breaker{now: now.Now}
	call := func(v verdict) (allowed bool) {
		ok, probe := b.allow()
		if ok {
			b.report(v, probe)
		}
		return ok
	}
	want := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Fatalf("%s: allowed %v, want %v", what, got, want)
		}
	}
	for range failuresToOpen - 1 {
		want("closed", call(failed), true)
	}
	want("an answer", call(answered), true)
	for range failuresToOpen - 1 {
		want("counting from zero again", call(failed), true)
	}
	want("a call that was given up", call(nothing), true)
	want("the failure that opens", call(failed), true)
	want("open", call(answered), false)

	for cooldown := firstCooldown; cooldown < longestCooldown; cooldown *= 2 {
		now.advance(cooldown - 1)
		want("before the cooldown's end", call(answered), false)
		now.advance(1)
		want("a failing probe", call(failed), true)
		want("after it", call(answered), false)
	}
	now.advance(longestCooldown)
	ok, probe := b.allow()
	want("the probe", ok && probe, true)
	want("beside the probe", call(answered), false)
	b.report(failed, false) // a call from before
	want("beside the probe, after a late failure", call(answered), false)
	b.report(nothing, probe)
	want("the probe was given up, the next one answers", call(answered), true)
	want("closed again", call(answered), true)

	want("a lie", call(lied), true)
	want("after the lie", call(answered), false)
	b.report(answered, false)
	want("after a late answer", call(answered), false)
	now.advance(longestCooldown - time.Nanosecond)
	want("shortly before the cooldown's end", call(answered), false)
	now.advance(time.Nanosecond)
	want("the probe after the lie", call(answered), true)
	for range failuresToOpen - 1 {
		want("closed after the lie", call(failed), true)
	}
	want("still closed", call(answered), true)
}
