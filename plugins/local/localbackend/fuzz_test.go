package localbackend

import (
	"bytes"
	"testing"
)

// FuzzRecord holds every decoder of stored bytes to two rules: it never panics,
// and what it accepts is encoded to the same bytes again.
func FuzzRecord(f *testing.F) {
	r := record{seq: 1, updatedAt: 2, contentType: "application/json", updatedBy: "ann", message: "why", value: []byte("{}")}
	f.Add(r.encode())
	f.Add(record{deleted: true}.encode())
	f.Add(pointer{version: 3, seq: 4, updatedAt: -5, deleted: true}.encode())
	f.Add(change{version: 1, id: []byte("\x04acme\x00a")}.encode())
	f.Add(remembered{expires: 1, version: 2, result: record{message: "m"}}.encode())
	s := state{seq: 9, floor: 3, live: 2}
	f.Add(s.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(what string, again []byte) {
			if !bytes.Equal(b, again) {
				t.Errorf("%s: % x becomes % x", what, b, again)
			}
		}
		if r, err := decodeRecord(b); err == nil {
			same("record", r.encode())
		}
		if p, err := decodePointer(b); err == nil {
			same("pointer", p.encode())
		}
		if c, err := decodeChange(b); err == nil {
			same("change", c.encode())
		}
		if m, err := decodeRemembered(b); err == nil {
			same("remembered", m.encode())
		}
		if s, err := decodeState(b); err == nil {
			same("state", s.encode())
		}
		if id, version, ok := splitVersionKey(b); ok {
			same("version key", versionKey(id, version))
		}
		key := []byte("key")
		if content, err := unseal(tableVersions, key, b); err == nil {
			same("sealed", seal(tableVersions, key, bytes.Clone(content)))
		}
	})
}

// FuzzInspect feeds whole files to the check that Open makes before bbolt sees
// them.
func FuzzInspect(f *testing.F) {
	file, _ := healthyFile(f)
	f.Add(file)
	f.Add(file[:len(file)/2])
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = examine("fuzz", bytes.NewReader(b), int64(len(b)))
	})
}
