package ssmbackend

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/google/go-cmp/cmp"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// The newest 100 versions are there, newest first, over Parameter Store's pages
// and this store's.
func TestLongHistory(t *testing.T) {
	t.Parallel()
	root, c := folder(t), raw(t)
	s := openStore(t, at(root))
	k := id(t, "acme", "api", "k")
	for i := range 120 {
		rawPut(t, c, root+"/acme/api/k", fmt.Sprint(i+1), func(in *ssm.PutParameterInput) { in.Description = aws.String(fmt.Sprintf("change %d — by ana", i+1)) })
	}
	for _, size := range []int{0, 7, 100, 1000} {
		r := driver.HistoryRequest{ID: k, PageSize: size}
		next := uint64(120)
		for {
			page, err := s.History(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Entries {
				if e.Version != next || string(e.Value) != fmt.Sprint(next) {
					t.Fatalf("version %d with value %q where %d was due", e.Version, e.Value, next)
				}
				if e.Version > 21 && (e.Message != fmt.Sprintf("change %d", next) || e.UpdatedBy != "ana") {
					t.Errorf("version %d: %q by %q", next, e.Message, e.UpdatedBy)
				}
				next--
			}
			if r.PageToken = page.NextPageToken; r.PageToken == "" {
				break
			}
		}
		if next != 20 {
			t.Errorf("page size %d: the oldest is version %d, want 21", size, next+1)
		}
	}
	if e := get(t, s, k, 21); string(e.Value) != "21" {
		t.Errorf("version 21 is %q", e.Value)
	}
	_, err := s.Get(t.Context(), k, 20)
	wantCode(t, err, config.NotFound)
}

// Whoever wrote a version is named, and nobody is for another's.
func TestAuthors(t *testing.T) {
	t.Parallel()
	root, c := folder(t), raw(t)
	s := openStore(t, at(root))
	k, name := id(t, "acme", "api", "k"), root+"/acme/api/k"
	putAs := func(message, author string) {
		t.Helper()
		if _, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("1"), Message: message, UpdatedBy: author}); err != nil {
			t.Fatal(err)
		}
	}
	putAs("first", "ana")
	putAs("", "")
	putAs("", "ben")
	putAs("only why", "")
	rawPut(t, c, name, "1", func(in *ssm.PutParameterInput) { in.Description = aws.String("managed elsewhere") })
	putAs("last — by far", "ana")

	page, err := s.History(t.Context(), driver.HistoryRequest{ID: k})
	if err != nil {
		t.Fatal(err)
	}
	var got [][2]string
	for _, e := range page.Entries {
		got = append(got, [2]string{e.Message, e.UpdatedBy})
	}
	want := [][2]string{{"last — by far", "ana"}, {"managed elsewhere", ""}, {"only why", ""}, {"", "ben"}, {"", ""}, {"first", "ana"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A description that a version has from the version before it, because its
// writer named none, is not told of it: others' changes would bear the name of
// this store's last author.
func TestInheritedDescriptions(t *testing.T) {
	version := func(n int64, description, user string) types.ParameterHistory {
		return types.ParameterHistory{
			Name: aws.String("/x"), Value: aws.String("1"), Version: n, Description: aws.String(description), LastModifiedUser: aws.String(user),
			LastModifiedDate: aws.Time(testTime),
		}
	}
	const (
		role    = "arn:aws:sts::123456789012:assumed-role/config/i-1"
		restart = "arn:aws:sts::123456789012:assumed-role/config/i-2"
		person  = "arn:aws:iam::123456789012:user/ops"
		another = "arn:aws:sts::123456789012:assumed-role/config-2/i-1"
	)
	entries, err := historyOf(id(t, "acme", "", "k"), []types.ParameterHistory{
		version(1, "sync — by bot", role),
		version(2, "sync — by bot", restart), // the same role in another process
		version(3, "sync — by bot", person),
		version(4, "sync — by bot", another),
		version(5, "sync — by bot", another), // which may have it from version 4
		version(6, "other — by bot", another),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint64]string{1: "bot", 2: "bot", 6: "bot"}
	for _, e := range entries {
		if e.Version == 5 {
			continue // as good as version 4 was, and nobody can tell
		}
		if e.UpdatedBy != want[e.Version] {
			t.Errorf("version %d is by %q, want %q", e.Version, e.UpdatedBy, want[e.Version])
		}
	}
	// Where the version before the oldest is not kept any more, nobody can tell.
	entries, err = historyOf(id(t, "acme", "", "k"), []types.ParameterHistory{version(2, "sync — by bot", role)})
	if err != nil || entries[0].UpdatedBy != "" || entries[0].Message != "" {
		t.Errorf("got %+v, %v", entries, err)
	}
}
