package localbackend

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

var damageStride = flag.Int("damage-stride", 61, "test a flip of every n-th byte of a data file")

// healthyFile returns a data file with a bit of everything in it, and all that
// it holds: history's values by id and version.
func healthyFile(t testing.TB) (file []byte, want map[config.ID]map[uint64]string) {
	t.Helper()
	path := tempFile(t)
	s := openStore(t, Options{Path: path})
	want = make(map[config.ID]map[uint64]string)
	for i := range 40 {
		k := id(t, []string{"acme", "globex"}[i%17%2], fmt.Sprintf("tenant_config_%02d", i%17))
		if want[k] == nil {
			want[k] = make(map[uint64]string)
		}
		if i > 17 && i%11 == 10 {
			e := remove(t, s, k)
			want[k][e.Version] = ""
			continue
		}
		value := strings.Repeat(fmt.Sprint(i, " "), 1+i*i%200)
		if i == 20 {
			value = strings.Repeat("x", 3*os.Getpagesize())
		}
		e, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte(value), IdempotencyKey: fmt.Sprint(i), UpdatedBy: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		want[k][e.Version] = value
	}
	closeIt(t, s)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file, want
}

// checkNotWrong opens a file that may be damaged and reads everything. Refusing
// it is right, and so is DataLoss; anything else must be what was written. It
// returns how many answers were DataLoss.
func checkNotWrong(t *testing.T, path string, want map[config.ID]map[uint64]string) (lost int) {
	t.Helper()
	s, err := Open(t.Context(), Options{Path: path, LockTimeout: "1ms"})
	if err != nil {
		if code := config.CodeOf(err); code != config.DataLoss && code != config.FailedPrecondition {
			t.Errorf("refused with %v", err)
		}
		return 0
	}
	defer closeIt(t, s)
	listed := make(map[string]int)
	for id, versions := range want {
		for version, value := range versions {
			e, err := s.Get(t.Context(), id, version)
			switch config.CodeOf(err) {
			case config.DataLoss:
				lost++
				continue
			case config.NotFound:
				if value == "" {
					continue
				}
			}
			if err != nil || string(e.Value) != value || e.UpdatedBy != "ann" {
				t.Errorf("%s version %d: %v %q", id.Key, version, err, e.Value)
			}
		}
		if versions[uint64(len(versions))] != "" {
			listed[id.Tenant.String()]++
		}
	}
	for owner, count := range listed {
		page, err := s.List(t.Context(), driver.ListRequest{Tenant: tenant(t, owner)})
		switch {
		case config.CodeOf(err) == config.DataLoss:
			lost++
		case err != nil || len(page.Entries) != count:
			t.Errorf("list of %s: %v, %d of %d entries", owner, err, len(page.Entries), count)
		}
	}
	return lost
}

func TestFlippedBytesAreNeverServed(t *testing.T) {
	file, want := healthyFile(t)
	path := filepath.Join(t.TempDir(), "damaged.db")
	var refused, lost, harmless int
	for at := 0; at < len(file); at += *damageStride {
		flip := byte(1 << (at % 8))
		file[at] ^= flip
		// In memory first: most files are refused or not touched by the flip.
		c, err := examine(path, bytes.NewReader(file), int64(len(file)))
		switch {
		case err != nil:
			refused++
		case c.damaged > 0 || at%16 == 0:
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			if n := checkNotWrong(t, path, want); n > 0 {
				lost++
			} else {
				harmless++
			}
		}
		file[at] ^= flip
		if t.Failed() {
			t.Fatalf("with bit %08b of byte %d flipped", flip, at)
		}
	}
	t.Logf("%d files refused, %d with data loss, %d opened without harm", refused, lost, harmless)
	if refused == 0 || lost == 0 || harmless == 0 {
		t.Error("one of the three never came up: the test does not test what it should")
	}
}

func TestTruncatedFilesAreNeverServed(t *testing.T) {
	file, want := healthyFile(t)
	path := filepath.Join(t.TempDir(), "cut.db")
	for size := 0; size < len(file); size += 509 {
		if err := os.WriteFile(path, file[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if lost := checkNotWrong(t, path, want); lost > 0 || t.Failed() {
			t.Fatalf("cut to %d bytes: %d answers were data loss", size, lost)
		}
	}
}

// A damaged value costs its own version and nothing else.
func TestDamagedRecordIsDataLossForItsKeyAlone(t *testing.T) {
	path := tempFile(t)
	s := openStore(t, Options{Path: path})
	a, b := id(t, "acme", "a"), id(t, "acme", "b")
	put(t, s, a, "fine so far")
	put(t, s, a, "soon to be damaged")
	put(t, s, b, "elsewhere")
	r := driver.WatchRequest{Tenant: a.Tenant}
	closeIt(t, s)
	alterFile(t, path, func(file []byte) {
		file[bytes.Index(file, []byte("soon to be damaged"))]++
	})

	s = openStore(t, Options{Path: path})
	_, err := s.Get(t.Context(), a, 0)
	wantCode(t, err, config.DataLoss)
	var e *config.Error
	if errors.As(err, &e); e.Key != a.Key {
		t.Errorf("the error names key %q, want %q", e.Key, a.Key)
	}
	wantValue(t, s, a, 1, "fine so far")
	wantValue(t, s, b, 0, "elsewhere")
	batch, err := s.BatchGet(t.Context(), []config.ID{a, b})
	if err != nil || config.CodeOf(batch[0].Err) != config.DataLoss || string(batch[1].Entry.Value) != "elsewhere" {
		t.Errorf("batch: %+v, %v", batch, err)
	}
	_, err = s.List(t.Context(), driver.ListRequest{Tenant: a.Tenant})
	wantCode(t, err, config.DataLoss)
	wantCode(t, s.Watch(t.Context(), r, func(driver.Event) error { return nil }), config.DataLoss)
	// Its pointer is whole, so it can be written again.
	if e := put(t, s, a, "mended"); e.Version != 3 {
		t.Errorf("version is %d, want 3", e.Version)
	}
	wantValue(t, s, a, 0, "mended")
}

// alterFile changes a file in place, in every copy that bbolt left in it.
func alterFile(t *testing.T, path string, alter func([]byte)) {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	alter(file)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	healthy, _ := healthyFile(t)
	page := os.Getpagesize()
	otherBolt := tempFile(t)
	db, err := bbolt.Open(otherBolt, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, db)
	other, err := os.ReadFile(otherBolt)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		file []byte
		code config.Code
		says string
	}{
		"empty":             {nil, config.FailedPrecondition, "empty"},
		"text":              {bytes.Repeat([]byte("no database\n"), 1000), config.FailedPrecondition, "no data file"},
		"zeros":             {make([]byte, 1<<16), config.FailedPrecondition, "no data file"},
		"other bbolt file":  {other, config.FailedPrecondition, "another program"},
		"cut in half":       {healthy[:len(healthy)/2], config.DataLoss, "cut short"},
		"newest meta":       {damaged(healthy, page+pageHead+20), config.DataLoss, "meta page"},
		"other meta":        {damaged(healthy, pageHead+20), config.DataLoss, "meta page"},
		"zeros in a page":   {zeroed(healthy, findPage(t, healthy, flagLeaf)), config.DataLoss, "damaged"},
		"zeros in freelist": {zeroed(healthy, findPage(t, healthy, flagFreelist)), config.DataLoss, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			if err := os.WriteFile(path, tc.file, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), Options{Path: path})
			wantCode(t, err, tc.code)
			for _, part := range []string{tc.says, path, "restore it from a backup"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v: does not say %q", err, part)
				}
			}
			after, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(after, tc.file) {
				t.Error("the refused file was changed")
			}
		})
	}
}

func damaged(file []byte, at int) []byte {
	file = slices.Clone(file)
	file[at] ^= 0x10
	return file
}

func zeroed(file []byte, page int) []byte {
	file = slices.Clone(file)
	clear(file[page*os.Getpagesize():][:os.Getpagesize()])
	return file
}

// findPage returns the number of a page of this kind that is in use.
func findPage(t *testing.T, file []byte, kind uint16) int {
	t.Helper()
	first, err := readMeta(bytes.NewReader(file), 0)
	if err != nil {
		t.Fatal(err)
	}
	second, err := readMeta(bytes.NewReader(file), int64(first.pageSize))
	if err != nil {
		t.Fatal(err)
	}
	if second.txid > first.txid {
		first = second
	}
	if kind == flagFreelist {
		return int(first.freelist)
	}
	return int(first.root)
}

func TestNewerFormatIsRefused(t *testing.T) {
	path := tempFile(t)
	closeIt(t, openStore(t, Options{Path: path}))
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		content := le.AppendUint32(nil, formatVersion+1)
		return tx.Bucket([]byte(tableMeta)).Put(keyFormat, seal(tableMeta, keyFormat, append(content, "whatever it has"...)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), Options{Path: path})
	wantCode(t, err, config.FailedPrecondition)
	if !strings.Contains(err.Error(), "format 2") {
		t.Errorf("%v: does not name the format", err)
	}
}

// A file that is cut while it is open faults in the memory map: that is an
// answer, not the end of the process.
func TestFileCutWhileOpen(t *testing.T) {
	path := tempFile(t)
	s := openStore(t, Options{Path: path})
	var ids []config.ID
	for i := range 20 {
		k := id(t, "acme", fmt.Sprint("k", i))
		ids = append(ids, k)
		put(t, s, k, strings.Repeat("x", 5000))
	}
	if err := os.Truncate(path, int64(2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	for _, k := range ids {
		_, err := s.Get(t.Context(), k, 0)
		wantCode(t, err, config.DataLoss)
	}
	_, err := s.Put(t.Context(), driver.PutRequest{ID: ids[0], Value: []byte("y")})
	wantCode(t, err, config.DataLoss)
	_, err = s.Put(t.Context(), driver.PutRequest{ID: ids[0], Value: []byte("y")})
	wantCode(t, err, config.DataLoss)
	wantCode(t, s.Ping(t.Context()), config.Unavailable)
	closeIt(t, s)
}

// What inspect accepts is what bbolt's own check accepts.
func TestInspectAgreesWithBolt(t *testing.T) {
	path := tempFile(t)
	s := openStore(t, Options{Path: path, HistoryLimit: 3, ChangeLimit: 50})
	for i := range 200 {
		put(t, s, id(t, "acme", fmt.Sprint("k", i*i%97)), strings.Repeat("v", i*37%9000))
	}
	closeIt(t, s)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := examine(path, bytes.NewReader(file), int64(len(file))); err != nil || c.damaged > 0 {
		t.Fatalf("examine: %v, %d damaged", err, c.damaged)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIt(t, db)
	err = db.View(func(tx *bbolt.Tx) error {
		var all []error
		for err := range tx.Check() {
			all = append(all, err)
		}
		return errors.Join(all...)
	})
	if err != nil {
		t.Error(err)
	}
}
