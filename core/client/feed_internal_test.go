package client

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/tagstore/tagstore/core/config"
)

// lonely is a session of a service that is not there.
func lonely(t *testing.T, opts ...SessionOption) *Session {
	t.Helper()
	c, err := New("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	cache, err := NewCache(c, CacheOptions{Prefixes: []string{"p_"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cache.Close() })
	s, err := cache.Session("acme/1", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func parsed(t *testing.T, key string) config.Key {
	t.Helper()
	k, err := config.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What is told in the moment in which a session ends is not held: nobody would
// let go of it, and it would count for the whole cache.
func TestNothingIsHeldBehindTheEnd(t *testing.T) {
	s := lonely(t)
	for round := range 200 {
		f := newFeed(s, scope{prefix: "p_"})
		var tellers sync.WaitGroup
		told := make(chan struct{}, 4)
		for n := range 4 {
			key := parsed(t, fmt.Sprintf("p_%d", n))
			tellers.Go(func() {
				for version := uint64(1); ; version++ {
					err := f.event(Event{Kind: EventPut, Entry: Entry{Key: key, Version: version, Value: []byte("v")}})
					if errors.Is(err, errEnded) {
						return
					}
					if version == 1 {
						told <- struct{}{}
					}
				}
			})
		}
		for range 4 {
			<-told
		}
		f.drop()
		tellers.Wait()
		if n := s.cache.bytes.Load(); n != 0 {
			t.Fatalf("round %d: %d bytes are held, and nothing is", round, n)
		}
	}
}

// Two answers of the store that come in another order than they were given, and
// an own write that is answered late, take nobody back.
func TestLateAnswersDoNotGoBack(t *testing.T) {
	s := lonely(t)
	key := parsed(t, "p_a")
	at := func(version uint64) *record {
		return newValue(Entry{Key: key, Version: version, Value: []byte{byte(version)}})
	}
	f := newFeed(s, scope{prefix: "p_"})
	sl := f.slot(key)

	gen, _ := f.look(sl) // both ask now
	if held, again := f.found(sl, at(8), gen, true); held != nil || again {
		t.Fatalf("the first answer was not taken: %v, %v", held, again)
	}
	if held, _ := f.found(sl, at(7), gen, true); held == nil || held.answer.Entry.Version != 8 {
		t.Errorf("the older answer that came later was taken: %+v", held)
	}
	if held := sl.record.Load(); held == nil || held.answer.Entry.Version != 8 {
		t.Errorf("%+v is held, want version 8", held)
	}

	f.mu.Lock()
	f.doubt(sl)
	f.mu.Unlock()
	f.wrote(key, Entry{Key: key, Version: 7})
	if err := f.event(Event{Kind: EventSync}); err != nil {
		t.Fatal(err)
	}
	if err := f.event(Event{Kind: EventPut, Entry: at(7).answer.Entry}); err != nil {
		t.Fatal(err)
	}
	if held := sl.record.Load(); held != nil && held.answer.Entry.Version < 8 {
		t.Errorf("version %d is held behind version 8", held.answer.Entry.Version)
	}
	// The watch is believed again once it has come that far.
	if err := f.event(Event{Kind: EventPut, Entry: at(8).answer.Entry}); err != nil {
		t.Fatal(err)
	}
	if held := sl.record.Load(); held == nil || held.answer.Entry.Version != 8 {
		t.Errorf("%+v is held, want version 8", held)
	}
}

// An absent key that is in doubt, and that is asked for all the time, comes to be
// held: those who asked before the doubt get the same, and keep nobody from it.
func TestADoubtEndsUnderReads(t *testing.T) {
	s := lonely(t)
	f := newFeed(s, scope{prefix: "p_"})
	sl := f.slot(parsed(t, "p_a"))
	early, _ := f.look(sl)
	f.found(sl, newAbsent(), early, false)
	f.mu.Lock()
	f.doubt(sl)
	f.mu.Unlock()
	late, doubt := f.look(sl)
	if !doubt {
		t.Fatal("the key is not in doubt")
	}
	f.found(sl, newAbsent(), early, true)
	if sl.record.Load() != nil {
		t.Error("an answer from before the doubt is held")
	}
	f.found(sl, newAbsent(), late, true)
	if sl.record.Load() == nil {
		t.Error("the answer from behind the doubt is not held")
	}
}

// What was answered and not held, as a secret is, is not taken back by an older
// deletion that the watch tells later.
func TestWhatIsNotHeldIsNotTakenBack(t *testing.T) {
	s := lonely(t)
	key := parsed(t, "p_a")
	f := newFeed(s, scope{prefix: "p_"})
	if err := f.event(Event{Kind: EventSync}); err != nil {
		t.Fatal(err)
	}
	sl := f.slot(key)
	gen, _ := f.look(sl)
	f.found(sl, newValue(Entry{Key: key, Version: 4, Secret: true}), gen, false)
	if err := f.event(Event{Kind: EventDelete, Entry: Entry{Key: key, Version: 2}}); err != nil {
		t.Fatal(err)
	}
	if held := sl.record.Load(); held != nil {
		t.Errorf("%+v is held behind version 4", held)
	}
}

// An answer that arrives when its slot has been given up is not held: nobody would
// let go of it.
func TestNothingIsHeldWhereNobodyLooks(t *testing.T) {
	s := lonely(t)
	key := parsed(t, "p_a")
	f := newFeed(s, scope{prefix: "p_"})
	sl := f.slot(key)
	gen, _ := f.look(sl)
	f.mu.Lock()
	s.remove(f, []config.Key{key})
	f.mu.Unlock()
	f.found(sl, newValue(Entry{Key: key, Version: 4}), gen, true)
	if n := s.cache.bytes.Load(); n != 0 {
		t.Errorf("%d bytes are held, and nothing is", n)
	}
}

// What may be older than what was answered is not believed, though it looks the same
// as that, or comes in order.
func TestWhatMayBeOlderIsNotBelieved(t *testing.T) {
	key := parsed(t, "p_a")
	order, err := config.ParseService("order")
	if err != nil {
		t.Fatal(err)
	}
	put := func(version uint64) Event {
		return Event{Kind: EventPut, Entry: Entry{Key: key, Version: version}}
	}
	deleted := Event{Kind: EventDelete, Entry: Entry{Key: key}}
	anew := []Event{{Kind: EventGap}, {Kind: EventSync}}
	for _, c := range []struct {
		name  string
		tell  []Event
		wrote Entry
		then  []Event
	}{
		{
			"an own deletion in one layer, and a state from before it in which there was no other",
			[]Event{put(1), deleted},
			Entry{Key: key, Service: order, Version: 2, Deleted: true},
			anew,
		},
		{
			"a version, in order behind the state of a replica that may not have known it to be deleted",
			[]Event{put(1), deleted},
			Entry{},
			append(anew, put(1)),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFeed(lonely(t), scope{"p_", order})
			sl := f.slot(key)
			events := append([]Event{{Kind: EventSync}}, c.tell...)
			for i, e := range append(events, c.then...) {
				if i == len(events) && c.wrote.Version > 0 {
					f.wrote(key, c.wrote)
				}
				if err := f.event(e); err != nil {
					t.Fatal(err)
				}
			}
			if held := sl.record.Load(); held != nil {
				t.Errorf("%+v is held, and nobody knows whether it is the newest", held.position())
			}
		})
	}

	t.Run("one of two answers of which nobody knows which is the newer", func(t *testing.T) {
		f := newFeed(lonely(t), scope{"p_", order})
		sl := f.slot(key)
		gen, _ := f.look(sl)
		f.found(sl, newAbsent(), gen, false)
		f.found(sl, newValue(put(3).Entry), never, true)
		gen, _ = f.look(sl)
		if _, again := f.found(sl, newValue(put(3).Entry), gen, false); !again {
			t.Error("an answer that may be the older of the two was given")
		}
	})
}
