package s3backend

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// What S3 adds to a name of user metadata in a request.
const metaHeader = "x-amz-meta-" + metaKey

// The longest record fits into S3's 2 KB, and one byte more of text is refused.
func TestLongestRecordFits(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{})
	author, message := strings.Repeat("ä", 188), strings.Repeat("漢", 341)+"x" // 376 and 1024 bytes
	if len(author)+len(message) != maxText {
		t.Fatalf("%d bytes", len(author)+len(message))
	}
	r := record{version: ^uint64(0), deleted: true, at: time.Unix(1<<40, 0), updatedBy: author, message: message}
	if n := len(metaHeader) + len(r.encode(strings.Repeat("k", maxPath))); n > maxMetadata {
		t.Errorf("the longest record takes %d bytes of %d", n, maxMetadata)
	}
	put(t, s, key, "1", func(r *driver.PutRequest) { r.UpdatedBy, r.Message = author, message })
	e, err := s.Get(t.Context(), key, 0)
	if err != nil || e.UpdatedBy != author || e.Message != message {
		t.Errorf("%d and %d bytes came back (%v)", len(e.UpdatedBy), len(e.Message), err)
	}
	for _, r := range []driver.PutRequest{{UpdatedBy: author + "x", Message: message}, {Message: strings.Repeat("x", maxText+1)}} {
		r.ID, r.Value = key, []byte("2")
		_, err := s.Put(t.Context(), r)
		wantCode(t, err, config.InvalidArgument)
		_, err = s.Delete(t.Context(), driver.DeleteRequest{ID: key, UpdatedBy: r.UpdatedBy, Message: r.Message})
		wantCode(t, err, config.InvalidArgument)
	}
	wantEntry(t, s, key, 1, "1")
}

func TestRecordComesBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := record{
			version:   rapid.Uint64Min(1).Draw(t, "version"),
			deleted:   rapid.Bool().Draw(t, "deleted"),
			at:        time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "at"), 0).UTC(),
			updatedBy: string(rapid.SliceOfN(rapid.Byte(), 0, 376).Draw(t, "author")),
			message:   string(rapid.SliceOfN(rapid.Byte(), 0, 1024).Draw(t, "message")),
		}
		copy(want.write[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "write"))
		copy(want.over[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "over"))
		text := want.encode("acme/order/k")
		for i := range len(text) {
			if text[i] <= ' ' || text[i] > '~' {
				t.Fatalf("byte %d is not printable ASCII", i)
			}
		}
		if n := len(metaHeader) + len(text); n > maxMetadata {
			t.Fatalf("%d bytes of metadata", n)
		}
		got, ok := decodeRecord("acme/order/k", text)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(record{})); !ok || diff != "" {
			t.Fatalf("(-want +got, %t):\n%s", ok, diff)
		}
		if _, ok := decodeRecord("acme/order/kk", text); ok {
			t.Fatalf("it is the record of another key too")
		}
		at := rapid.IntRange(0, len(text)-1).Draw(t, "edit")
		edited := []byte(text)
		edited[at]++
		if _, ok := decodeRecord("acme/order/k", string(edited)); ok {
			t.Fatalf("it is a record still after an edit of byte %d", at)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add("")
	f.Add("1.put.1.0..x")
	f.Add(record{version: 7, updatedBy: "me", message: "why"}.encode("k"))
	f.Fuzz(func(t *testing.T, text string) {
		if r, ok := decodeRecord("k", text); ok && r.encode("k") != text {
			t.Errorf("%q is read as the record %q", text, r.encode("k"))
		}
	})
}
