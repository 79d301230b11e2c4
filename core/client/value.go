package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// Reader is what a Value is read from: a Session, or a Cache, which takes the
// session of the context's token.
type Reader interface {
	session(ctx context.Context) *Session
}

// Value reads one key as a T. A version is decoded and validated once, not at
// every read. Make one for each key, for the life of the program; its fields
// must not change once it is read.
type Value[T any] struct {
	Key     config.Key
	Service config.Service
	// Default is what a key without a value reads as. nil: that is NotFound.
	Default *T
	// Validate, if set, refuses what must not be used.
	Validate func(T) error
	// Decode makes a T of the bytes; nil is JSON.
	Decode func([]byte) (T, error)
}

// Reading is a value as it was read. What Value refers to is shared by all who
// read the same version: it must not be changed.
type Reading[T any] struct {
	Value T
	// Version is that of Value; 0 for the default, or where the store does not
	// count.
	Version uint64
	// Default says that Value is Value.Default.
	Default bool
	// Rejected is nil, or why the newest version is not what Value is: it does
	// not decode or validate. Value is then the last version that did, or else
	// the default. Its text holds no value, unless Validate puts it there.
	Rejected  error
	Freshness config.Freshness // of the newest version
	Lag       time.Duration    // as Answer.Lag
}

// decoded is what came of one record. It does not change.
type decoded[T any] struct {
	record   *record // that it was made of; nil for an answer that was not held
	entry    position
	revision config.Revision
	reading  Reading[T]
}

// typed is a list of what the Values that read a slot have made of it.
type typed struct {
	item any // *made[T]
	next *typed
}

type made[T any] struct {
	owner *Value[T]
	last  atomic.Pointer[decoded[T]]
}

// Get reads the value. The code is NotFound where there is none and no default,
// and DataLoss where the only version that is known does not decode or validate
// and there is no default. A read from memory decodes nothing and allocates
// nothing.
func (v *Value[T]) Get(ctx context.Context, from Reader) (Reading[T], error) {
	s := from.session(ctx)
	if s == nil {
		return Reading[T]{}, (&config.Error{Op: "client.Value", Key: v.Key, Code: config.ResourceExhausted, Message: "there is no session to read with"}).
			WithHint("put a token into the context, or raise CacheOptions.MaxSessions")
	}
	if w := s.look(v.Key, v.Service); s.fresh(&w) && !w.record.absent {
		if m := v.madeOf(w.slot); m != nil {
			if d := m.last.Load(); d != nil && d.record == w.record {
				r := d.reading
				r.Lag = time.Duration(w.lag)
				r.Freshness.Age = r.Lag
				if w.status == sourceDown {
					r.Freshness.State = config.StateDegraded
				}
				return r, nil
			}
		}
	}
	a, sl, err := s.ask(ctx, v.Key, v.Service, nil)
	if err != nil {
		if config.CodeOf(err) == config.NotFound && v.Default != nil {
			return Reading[T]{Value: *v.Default, Default: true, Freshness: a.Freshness, Lag: a.Lag}, nil
		}
		return Reading[T]{}, err
	}
	return v.make(a, sl)
}

// madeOf finds what this Value has made of a slot.
func (v *Value[T]) madeOf(sl *slot) *made[T] {
	for n := sl.typed.Load(); n != nil; n = n.next {
		if m, ok := n.item.(*made[T]); ok && m.owner == v {
			return m
		}
	}
	return nil
}

// make decodes an answer, unless it is the one that was decoded last.
func (v *Value[T]) make(a Answer, sl *slot) (Reading[T], error) {
	var m *made[T]
	var last *decoded[T]
	var held *record
	at := newValue(a.Entry).position()
	if sl != nil {
		if m = v.madeOf(sl); m == nil {
			m = v.register(sl)
		}
		last = m.last.Load()
		if r := sl.record.Load(); r != nil && !r.absent && r.position() == at && r.answer.Entry.Revision == a.Entry.Revision {
			held = r
		}
	}
	var d decoded[T]
	if last != nil && at.version > 0 && last.entry == at && last.revision == a.Entry.Revision {
		d = *last
		d.record = held
	} else {
		d = decoded[T]{record: held, entry: at, revision: a.Entry.Revision}
		value, err := v.decode(a.Entry)
		switch {
		case err == nil:
			d.reading = Reading[T]{Value: value, Version: a.Entry.Version}
		case last != nil:
			d.reading = last.reading
			d.reading.Rejected = err
		case v.Default != nil:
			d.reading = Reading[T]{Value: *v.Default, Default: true, Rejected: err}
		default:
			return Reading[T]{}, err
		}
	}
	d.reading.Freshness, d.reading.Lag = a.Freshness, a.Lag
	out := d.reading
	if held != nil {
		d.reading.Freshness = held.answer.Freshness
	}
	if m != nil && (last == nil || !at.olderThan(last.entry)) {
		m.last.CompareAndSwap(last, &d)
	}
	return out, nil
}

// register adds this Value to those that read the slot.
func (v *Value[T]) register(sl *slot) *made[T] {
	m := &made[T]{owner: v}
	for {
		head := sl.typed.Load()
		if sl.typed.CompareAndSwap(head, &typed{item: m, next: head}) {
			return m
		}
		if other := v.madeOf(sl); other != nil {
			return other
		}
	}
}

func (v *Value[T]) decode(e Entry) (T, error) {
	var value T
	var err error
	if v.Decode != nil {
		value, err = v.Decode(e.Value)
	} else if err = json.Unmarshal(e.Value, &value); err != nil {
		err = withoutValue(err)
	}
	what := "decode"
	if err == nil && v.Validate != nil {
		err, what = v.Validate(value), "validate"
	}
	if err != nil {
		var zero T
		return zero, (&config.Error{
			Op: "client.Value", Key: v.Key, Code: config.DataLoss, Message: fmt.Sprintf("version %d does not %s: %v", e.Version, what, err),
		}).WithHint("put a value of the right shape, or roll back").WithCause(err)
	}
	return value, nil
}

// withoutValue keeps what encoding/json quotes of the value out of the text.
func withoutValue(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("it is not JSON, at byte %d", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("the field %q is not a %v", kind.Field, kind.Type)
	}
	return errors.New("it is not of the right shape")
}
