package wire

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
	backendv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/backend/v1"
)

func TestCheckItems(t *testing.T) {
	entries := func(n int) []*backendv1.Entry {
		all := make([]*backendv1.Entry, n)
		for i := range all {
			all[i] = &backendv1.Entry{Message: "m"}
		}
		return all
	}
	results := func(n int) []*backendv1.BatchGetResult {
		all := make([]*backendv1.BatchGetResult, n)
		for i := range all {
			all[i] = &backendv1.BatchGetResult{}
		}
		return all
	}
	for name, answer := range map[string]func(int) proto.Message{
		"list":    func(n int) proto.Message { return &backendv1.ListResponse{Entries: entries(n), NextPageToken: "t"} },
		"history": func(n int) proto.Message { return &backendv1.HistoryResponse{Entries: entries(n), NextPageToken: "t"} },
		"batch":   func(n int) proto.Message { return &backendv1.BatchGetResponse{Results: results(n)} },
		"refresh": func(n int) proto.Message { return &backendv1.RefreshResponse{Results: results(n)} },
		"a frame": func(n int) proto.Message {
			return &backendv1.ExchangeResponse{Id: 7, Outcome: &backendv1.ExchangeResponse_List{List: &backendv1.ListResponse{Entries: entries(n)}}}
		},
		"a frame of results": func(n int) proto.Message {
			return &backendv1.ExchangeResponse{Id: 7, Outcome: &backendv1.ExchangeResponse_BatchGet{BatchGet: &backendv1.BatchGetResponse{Results: results(n)}}}
		},
	} {
		for n, bad := range map[int]bool{0: false, 1: false, driver.MaxPageSize: false, driver.MaxPageSize + 1: true} {
			encoded, err := proto.Marshal(answer(n))
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckItems(encoded, answer(0)); errors.Is(err, config.Internal) != bad || !bad && err != nil {
				t.Errorf("%s of %d: %v", name, n, err)
			}
		}
	}
	twice, err := proto.Marshal(&backendv1.ExchangeResponse{
		Outcome: &backendv1.ExchangeResponse_List{List: &backendv1.ListResponse{Entries: entries(driver.MaxPageSize)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckItems(append(twice, twice...), &backendv1.ExchangeResponse{}); !errors.Is(err, config.Internal) {
		t.Errorf("an answer in two parts: %v", err)
	}
	if err := CheckItems([]byte{0xff}, &backendv1.ListResponse{}); !errors.Is(err, config.Internal) {
		t.Errorf("garbage: %v", err)
	}
	if err := CheckItems([]byte{0xff}, &backendv1.GetResponse{}); err != nil {
		t.Errorf("what holds one item: %v", err)
	}
}
