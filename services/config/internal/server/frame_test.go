package server_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/services/config/internal/server"
)

// Whatever comes as a frame is refused or is what protobuf reads, with no more
// calls and cancellations than are allowed.
func FuzzFrame(f *testing.F) {
	good, err := proto.Marshal(&tagstorev1.SessionRequest{Calls: []*tagstorev1.SessionCall{getCall(1, "tenant_config_x")}, Cancel: []uint64{1, 300}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{2 << 3, 1, 2 << 3, 1, 2<<3 | 2, 2, 1, 1})
	f.Add([]byte{1<<3 | 2, 0, 1<<3 | 2, 0, 1<<3 | 2, 0, 1<<3 | 2, 0})
	f.Add([]byte{2<<3 | 2, 3, 1, 1, 1})                                             // packed, as many as are allowed
	f.Add([]byte{2<<3 | 2, 4, 1, 1, 1, 1})                                          // and one more
	f.Add([]byte{2<<3 | 2, 2, 1, 1, 2<<3 | 2, 0, 2<<3 | 2, 1, 1})                   // in three parts, one of them empty
	f.Add([]byte{2<<3 | 5, 1, 1, 1, 1, 2<<3 | 5, 1, 1, 1, 1, 1 << 3, 1, 1 << 3, 1}) // of another kind: protobuf passes them over
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 3
		got, err := server.ParseFrame(data, most)
		want := new(tagstorev1.SessionRequest)
		plain := proto.Unmarshal(data, want)
		many := len(want.GetCalls()) > most || len(want.GetCancel()) > most
		switch {
		case (err == nil) != (plain == nil && !many):
			t.Fatalf("refused with %v, where protobuf says %v and there are %d calls and %d cancellations", err, plain, len(want.GetCalls()), len(want.GetCancel()))
		case err == nil && !proto.Equal(got, want):
			t.Errorf("read as %v, want %v", got, want)
		}
	})
}
