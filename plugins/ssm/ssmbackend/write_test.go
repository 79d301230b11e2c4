package ssmbackend

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// last returns the newest version of a parameter, as the history tells it.
func last(t *testing.T, c *ssm.Client, name string) types.ParameterHistory {
	t.Helper()
	var all []types.ParameterHistory
	in := &ssm.GetParameterHistoryInput{Name: aws.String(name), WithDecryption: aws.Bool(true)}
	for {
		out, err := c.GetParameterHistory(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, out.Parameters...)
		if in.NextToken = out.NextToken; aws.ToString(out.NextToken) == "" {
			return all[len(all)-1]
		}
	}
}

// A new parameter is what the options say.
func TestNewParameters(t *testing.T) {
	t.Parallel()
	c := raw(t)
	for _, row := range []struct {
		o    Options
		kind types.ParameterType
		tier types.ParameterTier
		key  string
	}{
		{Options{}, types.ParameterTypeString, types.ParameterTierStandard, ""},
		{Options{Tier: "advanced"}, types.ParameterTypeString, types.ParameterTierAdvanced, ""},
		{Options{Tier: "intelligent"}, types.ParameterTypeString, types.ParameterTierIntelligentTiering, ""},
		{Options{Secure: true}, types.ParameterTypeSecureString, types.ParameterTierStandard, "alias/aws/ssm"},
		{Options{Secure: true, KMSKeyID: "alias/config"}, types.ParameterTypeSecureString, types.ParameterTierStandard, "alias/config"},
	} {
		root := folder(t)
		row.o.Path, row.o.Options = at(root).Path, patient
		s := openStore(t, row.o)
		for i, expect := range []driver.Expect{driver.Any(), driver.Absent()} {
			k := id(t, "acme", "api", fmt.Sprintf("k%d", i))
			e, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte(`"v"`), Expect: expect, UpdatedBy: "ana", Message: "why"})
			if err != nil {
				t.Fatal(err)
			}
			v := last(t, c, root+"/acme/api/"+k.Key.String())
			if v.Type != row.kind || v.Tier != row.tier || aws.ToString(v.KeyId) != row.key || aws.ToString(v.Description) != "why — by ana" {
				t.Errorf("%+v: the parameter is %s, %s, key %q, described as %q", row.o, v.Type, v.Tier, aws.ToString(v.KeyId), aws.ToString(v.Description))
			}
			read := get(t, s, k, 0)
			secret := row.kind == types.ParameterTypeSecureString
			if e.Secret != secret || read.Secret != secret || string(read.Value) != `"v"` {
				t.Errorf("%+v: put says secret %t, get says secret %t and %q", row.o, e.Secret, read.Secret, read.Value)
			}
			if e.Revision != read.Revision || !e.UpdatedAt.Equal(read.UpdatedAt) || e.ContentType != read.ContentType || e.UpdatedBy != "ana" || e.Message != "why" {
				t.Errorf("put says %+v, get %+v", e, read)
			}
		}
	}
}

// An overwrite changes the value and nothing else of a parameter.
func TestOverwriteKeepsTheRest(t *testing.T) {
	t.Parallel()
	root, c := folder(t), raw(t)
	name := root + "/acme/api/k"
	for _, s := range []*Store{openStore(t, at(root)), openStore(t, Options{Path: at(root).Path, Options: patient, Secure: true, KMSKeyID: "alias/other", Tier: "intelligent"})} {
		for _, kind := range []types.ParameterType{types.ParameterTypeString, types.ParameterTypeSecureString} {
			rawPut(t, c, name, "1", func(in *ssm.PutParameterInput) {
				in.Type, in.Tier, in.Overwrite = kind, types.ParameterTierAdvanced, aws.Bool(false)
				in.AllowedPattern = aws.String(`^[0-9]+$`)
				in.Tags = []types.Tag{{Key: aws.String("team"), Value: aws.String("core")}}
				if kind == types.ParameterTypeSecureString {
					in.KeyId = aws.String("alias/first")
				} else {
					in.DataType = aws.String("aws:ec2:image")
				}
			})
			if _, err := c.LabelParameterVersion(t.Context(), &ssm.LabelParameterVersionInput{Name: aws.String(name), Labels: []string{"live"}}); err != nil {
				t.Fatal(err)
			}
			before := last(t, c, name)
			k := id(t, "acme", "api", "k")
			for i, expect := range []driver.Expect{driver.Any(), driver.Version(2)} {
				e, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("2"), Expect: expect})
				if err != nil || e.Version != uint64(i+2) || e.Secret != (kind == types.ParameterTypeSecureString) {
					t.Fatalf("put: %+v, %v", e, err)
				}
			}
			after := last(t, c, name)
			if after.Type != before.Type || after.Tier != before.Tier || aws.ToString(after.KeyId) != aws.ToString(before.KeyId) ||
				aws.ToString(after.AllowedPattern) != aws.ToString(before.AllowedPattern) || aws.ToString(after.DataType) != aws.ToString(before.DataType) {
				t.Errorf("before %+v\nafter  %+v", before, after)
			}
			labelled, err := c.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String(name + ":live")})
			if err != nil || labelled.Parameter.Version != 1 {
				t.Errorf("the label is on %+v, %v", labelled, err)
			}
			tags, err := c.ListTagsForResource(t.Context(), &ssm.ListTagsForResourceInput{ResourceId: aws.String(name), ResourceType: types.ResourceTypeForTaggingParameter})
			if err != nil || len(tags.TagList) != 1 {
				t.Errorf("the tags are %+v, %v", tags, err)
			}
			if _, err := c.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String(name)}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A value that is too large for a standard parameter makes it an advanced one,
// if the options allow that.
func TestSizes(t *testing.T) {
	t.Parallel()
	c := raw(t)
	for tier, most := range map[string]int{"standard": MaxStandard, "advanced": MaxAdvanced, "intelligent": MaxAdvanced} {
		root := folder(t)
		s := openStore(t, Options{Path: at(root).Path, Options: patient, Tier: tier})
		k, name := id(t, "acme", "api", "k"), root+"/acme/api/k"
		rawPut(t, c, name, "small", func(in *ssm.PutParameterInput) { in.Tier = types.ParameterTierStandard })
		for _, n := range []int{1, MaxStandard, most} {
			value := strings.Repeat("x", n)
			put(t, s, k, value)
			wantValue(t, s, k, 0, value)
		}
		if got := last(t, c, name).Tier; tier == "standard" && got != types.ParameterTierStandard || tier != "standard" && got == types.ParameterTierStandard {
			t.Errorf("%s: after a value of %d bytes the tier is %s", tier, most, got)
		}
		_, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte(strings.Repeat("x", most+1))})
		wantCode(t, err, config.InvalidArgument)
		if e := get(t, s, k, 0); e.Version != 4 {
			t.Errorf("%s: the version is %d, want 4", tier, e.Version)
		}
	}
}

// What Parameter Store can not hold is refused before it is asked.
func TestRefusedValues(t *testing.T) {
	t.Parallel()
	s := openStore(t, Options{Path: at(folder(t)).Path, Options: patient, MaxValue: 10})
	calls := s.conn.CountCalls()
	k := id(t, "acme", "api", "k")
	for name, r := range map[string]driver.PutRequest{
		"empty":       {ID: k},
		"nothing":     {ID: k, Value: []byte{}},
		"bytes":       {ID: k, Value: []byte("\xff\xfe")},
		"too long":    {ID: k, Value: []byte("12345678901")},
		"type":        {ID: k, Value: []byte("1"), ContentType: "image/png"},
		"no path":     {ID: id(t, "acme", "", "a/b"), Value: []byte("1")},
		"no id":       {Value: []byte("1")},
		"many levels": {ID: id(t, "acme", "api", "1/2/3/4/5/6/7/8/9/10/11/12/13/14"), Value: []byte("1")},
	} {
		_, err := s.Put(t.Context(), r)
		if config.CodeOf(err) != config.InvalidArgument {
			t.Errorf("%s: got %v, want invalid_argument", name, err)
		}
	}
	if n := calls.Logical(); n != 0 {
		t.Errorf("%d calls were made: %s", n, calls)
	}
	for _, kind := range []string{"", "application/json", "text/plain", "text/yaml; charset=utf-8", "application/octet-stream"} {
		if _, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("text"), ContentType: kind}); err != nil {
			t.Errorf("%q: %v", kind, err)
		}
	}
}

// A write that lost a race says so, and what it did.
func TestLostRace(t *testing.T) {
	t.Parallel()
	root, c := folder(t), raw(t)
	p := newProxy(t)
	s := p.behind(openStore(t, at(root)))
	k, name := id(t, "acme", "api", "k"), root+"/acme/api/k"
	put(t, s, k, "1")

	p.before("PutParameter", 1, func() { rawPut(t, c, name, "theirs") })
	_, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("mine"), Expect: driver.Version(1)})
	wantConflict(t, err, 2)
	if !strings.Contains(err.Error(), "version 2") || !strings.Contains(err.Error(), "version 3") || !strings.Contains(err.Error(), "history") {
		t.Errorf("the error does not say what happened: %v", err)
	}
	wantValue(t, s, k, 2, "theirs")
	wantValue(t, s, k, 3, "mine")

	p.before("PutParameter", 1, func() {
		if _, err := c.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String(name)}); err != nil {
			t.Error(err)
		}
	})
	_, err = s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("mine"), Expect: driver.Version(3)})
	wantConflict(t, err, 0)
	if !strings.Contains(err.Error(), "deleted") {
		t.Errorf("the error does not say what happened: %v", err)
	}
}

// A key that comes or goes while it is written is written all the same where
// that was allowed.
func TestWriteMeetsAnother(t *testing.T) {
	t.Parallel()
	root, c := folder(t), raw(t)
	p := newProxy(t)
	s := p.behind(openStore(t, at(root)))
	name := func(key string) string { return root + "/acme/api/" + key }

	made := id(t, "acme", "api", "made")
	p.before("PutParameter", 1, func() { rawPut(t, c, name("made"), "theirs") })
	if e := put(t, s, made, "mine"); e.Version != 2 {
		t.Errorf("a Put of any, of a key that was made meanwhile, is version %d, want 2", e.Version)
	}
	wantValue(t, s, made, 0, "mine")

	p.before("PutParameter", 1, func() { rawPut(t, c, name("absent"), "theirs") })
	_, err := s.Put(t.Context(), driver.PutRequest{ID: id(t, "acme", "api", "absent"), Value: []byte("mine"), Expect: driver.Absent()})
	wantConflict(t, err, 1)
	wantValue(t, s, id(t, "acme", "api", "absent"), 0, "theirs")

	// One that is there for the write and gone for the read after it, again and
	// again: nothing is written, and that is said.
	p.refuse("PutParameter", writeTries, http.StatusBadRequest, "ParameterAlreadyExists", "it exists")
	_, err = s.Put(t.Context(), driver.PutRequest{ID: id(t, "acme", "api", "ghost"), Value: []byte("mine"), Expect: driver.Absent()})
	wantCode(t, err, config.Unavailable)
	if _, err := s.Put(t.Context(), driver.PutRequest{ID: id(t, "acme", "api", "ghost"), Value: []byte("mine"), Expect: driver.Absent()}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Where the oldest of 100 versions has a label there is no room for another.
func TestLabelledHistory(t *testing.T) {
	t.Parallel()
	root, c := folder(t), raw(t)
	s := openStore(t, at(root))
	k, name := id(t, "acme", "api", "k"), root+"/acme/api/k"
	for i := range maxVersions {
		rawPut(t, c, name, fmt.Sprint(i+1))
	}
	if _, err := c.LabelParameterVersion(t.Context(), &ssm.LabelParameterVersionInput{Name: aws.String(name), ParameterVersion: aws.Int64(1), Labels: []string{"first"}}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("101")})
	if e := wantError(t, err, config.FailedPrecondition); !strings.Contains(e.Message, "label") || !strings.Contains(e.Hint, "LabelParameterVersion") || strings.Contains(err.Error(), root) {
		t.Errorf("the error is %v", err)
	}
	wantValue(t, s, k, 0, "100")
	if _, err := c.UnlabelParameterVersion(t.Context(), &ssm.UnlabelParameterVersionInput{Name: aws.String(name), ParameterVersion: aws.Int64(1), Labels: []string{"first"}}); err != nil {
		t.Fatal(err)
	}
	if e := put(t, s, k, "101"); e.Version != 101 {
		t.Errorf("the version is %d, want 101", e.Version)
	}
	_, err = s.Get(t.Context(), k, 1)
	wantCode(t, err, config.NotFound) // it made room
	wantValue(t, s, k, 2, "2")
}

func TestDelete(t *testing.T) {
	t.Parallel()
	s := openStore(t, at(folder(t)))
	k := id(t, "acme", "api", "k")
	put(t, s, k, "1")
	second := put(t, s, k, "2")
	remove := func(expect driver.Expect, permanent bool) (config.Entry, error) {
		return s.Delete(t.Context(), driver.DeleteRequest{ID: k, Expect: expect, Permanent: permanent, UpdatedBy: "ana", Message: "old"})
	}
	_, err := remove(driver.Any(), false)
	if e := wantError(t, err, config.FailedPrecondition); !strings.Contains(e.Message, "lost") || !strings.Contains(e.Hint, "permanent") {
		t.Errorf("the error is %v", err)
	}
	wantValue(t, s, k, 0, "2")
	wantValue(t, s, k, 1, "1")
	for _, expect := range []driver.Expect{driver.Absent(), driver.Version(1), driver.Version(3)} {
		_, err := remove(expect, true)
		wantConflict(t, err, 2)
	}
	wantValue(t, s, k, 0, "2")

	tombstone, err := remove(driver.Version(2), true)
	if err != nil {
		t.Fatal(err)
	}
	if tombstone.ID != k || !tombstone.Deleted || tombstone.Version != 3 || tombstone.Value != nil || tombstone.UpdatedBy != "ana" || tombstone.Message != "old" ||
		tombstone.Revision == "" || tombstone.Revision == second.Revision || tombstone.UpdatedAt.Before(second.UpdatedAt) || tombstone.UpdatedAt.Location() != time.UTC {
		t.Errorf("the tombstone is %+v", tombstone)
	}
	for _, expect := range []driver.Expect{driver.Any(), driver.Absent(), driver.Version(2), driver.Version(3)} {
		_, err := remove(expect, true)
		wantCode(t, err, config.NotFound)
	}
	for _, v := range []uint64{0, 1, 2, 3} {
		_, err := s.Get(t.Context(), k, v)
		wantCode(t, err, config.NotFound)
	}
	_, err = s.History(t.Context(), driver.HistoryRequest{ID: k})
	wantCode(t, err, config.NotFound)
	if e, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("3"), Expect: driver.Absent()}); err != nil || e.Version != 1 {
		t.Errorf("the next Put is %+v, %v, want version 1", e, err)
	}
}

// A write whose answer is lost is not sent again: it would be made twice.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	s := p.behind(openStore(t, at(folder(t))))
	k := id(t, "acme", "api", "k")
	put(t, s, k, "1")

	p.hangUp("PutParameter", 1)
	_, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("2"), Expect: driver.Version(1)})
	wantCode(t, err, config.OutcomeUnknown)
	wantValue(t, s, k, 0, "2")
	if e := put(t, s, k, "3"); e.Version != 3 {
		t.Errorf("the next Put is version %d, want 3", e.Version)
	}

	p.hangUp("DeleteParameter", 1)
	_, err = s.Delete(t.Context(), driver.DeleteRequest{ID: k, Permanent: true})
	wantCode(t, err, config.OutcomeUnknown)
	_, err = s.Get(t.Context(), k, 0)
	wantCode(t, err, config.NotFound)

	// An error inside AWS may come before or after the write.
	p.refuse("PutParameter", 1, http.StatusInternalServerError, "InternalServerError", "oops arn:aws:ssm:us-east-1:123456789012:parameter/x")
	_, err = s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("4")})
	wantCode(t, err, config.OutcomeUnknown)
	if strings.Contains(err.Error(), "123456789012") {
		t.Errorf("the error repeats AWS's text: %v", err)
	}
}

// The version is made when the read behind it fails, and that is an answer.
func TestMadeAndNotRead(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	s := p.behind(openStore(t, at(folder(t))))
	k := id(t, "acme", "api", "k")
	first := put(t, s, k, "1")
	p.refuse("GetParameter", 10, http.StatusBadRequest, "AccessDeniedException", "no")
	e, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("2"), Expect: driver.Version(1), UpdatedBy: "ana"})
	if err != nil || e.Version != 2 || e.Revision == "" || e.Revision == first.Revision || e.UpdatedAt.Before(first.UpdatedAt) || e.UpdatedAt.Location() != time.UTC || e.UpdatedBy != "ana" {
		t.Errorf("got %+v, %v", e, err)
	}

	p = newProxy(t)
	s = p.behind(openStore(t, at(folder(t))))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.before("GetParameter", 1, cancel)
	_, err = s.Put(ctx, driver.PutRequest{ID: k, Value: []byte("1")})
	if e := wantError(t, err, config.Canceled); !strings.Contains(e.Message, "had been made") {
		t.Errorf("the error does not say that it was made: %v", err)
	}
	wantValue(t, s, k, 1, "1")
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	p.before("PutParameter", 1, cancel)
	_, err = s.Put(ctx, driver.PutRequest{ID: k, Value: []byte("2")})
	if e := wantError(t, err, config.Canceled); !strings.Contains(e.Message, "may or may not") {
		t.Errorf("the error does not say that it may have been made: %v", err)
	}
}

// A throttled call is sent again, and says so if that does not help.
func TestThrottling(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	s := p.behind(openStore(t, at(folder(t))))
	k := id(t, "acme", "api", "k")
	for _, operation := range []string{"PutParameter", "GetParameter", "GetParameters", "GetParametersByPath", "GetParameterHistory"} {
		p.refuse(operation, 1, http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
	}
	put(t, s, k, "1")
	wantValue(t, s, k, 0, "1")
	if got := list(t, s, k, "", 0); len(got) != 1 {
		t.Errorf("list: %q", got)
	}
	if r, err := s.BatchGet(t.Context(), []config.ID{k}); err != nil || r[0].Err != nil {
		t.Errorf("batch: %+v, %v", r, err)
	}
	if e := get(t, s, k, 0); e.Version != 1 {
		t.Errorf("a throttled Put made version %d, want 1", e.Version)
	}

	p.refuse("PutParameter", -1, http.StatusBadRequest, "TooManyUpdates", "There are concurrent updates")
	_, err := s.Put(t.Context(), driver.PutRequest{ID: k, Value: []byte("2")})
	if e := wantError(t, err, config.ResourceExhausted); e.RetryAfter <= 0 || !strings.Contains(e.Message, "nothing was written") {
		t.Errorf("the error is %+v", e)
	}
	wantValue(t, s, k, 0, "1")

	p.refuse("GetParameter", -1, http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
	_, err = s.Get(t.Context(), k, 0)
	if e := wantError(t, err, config.ResourceExhausted); e.RetryAfter <= 0 {
		t.Errorf("the error is %+v", e)
	}
	p.refuse("GetParameters", -1, http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
	_, err = s.BatchGet(t.Context(), []config.ID{k})
	wantCode(t, err, config.ResourceExhausted)
}

// One call of a batch that fails takes no other with it.
func TestBatchFailsInParts(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	s := p.behind(openStore(t, at(folder(t))))
	var ids []config.ID
	for i := range 40 {
		ids = append(ids, id(t, "acme", "api", fmt.Sprintf("k%02d", i)))
		put(t, s, ids[i], "1")
	}
	p.refuse("GetParameters", 1, http.StatusBadRequest, "ValidationException", "arn:aws:iam::123456789012:user/x")
	results, err := s.BatchGet(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	var refused, read int
	for _, r := range results {
		switch {
		case r.Err == nil && string(r.Entry.Value) == "1":
			read++
		case errors.Is(r.Err, config.InvalidArgument) && !strings.Contains(r.Err.Error(), "123456789012"):
			refused++
		default:
			t.Errorf("got %+v", r)
		}
	}
	if refused != 10 || read != 30 {
		t.Errorf("%d were refused and %d read, want 10 and 30", refused, read)
	}
}

// A store that answers with another parameter is not believed.
// One parameter that may not be read, or whose key of KMS may not be used, makes
// AWS refuse the whole call. The others of that call are no worse for it.
func TestBatchWithOneThatIsDenied(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]config.Code{
		"AccessDeniedException": config.PermissionDenied,
		"InvalidKeyId":          config.FailedPrecondition,
	} {
		p := newProxy(t)
		root := folder(t)
		s := p.behind(openStore(t, at(root)))
		var ids []config.ID
		for i := range 12 {
			ids = append(ids, id(t, "acme", "api", fmt.Sprintf("k%02d", i)))
			put(t, s, ids[i], "1")
		}
		ids = append(ids, id(t, "acme", "api", "never"))
		p.on("GetParameters", -1, func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
			body, err := io.ReadAll(r.Body)
			if err != nil || strings.Contains(string(body), root+"/acme/api/k03") {
				w.Header().Set("Content-Type", "application/x-amz-json-1.1")
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, `{"__type":%q,"message":"arn:aws:ssm:us-east-1:123456789012:parameter/x"}`, code)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			forward.ServeHTTP(w, r)
		})
		results, err := s.BatchGet(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			switch i {
			case 3:
				wantCode(t, r.Err, want)
			case 12:
				wantCode(t, r.Err, config.NotFound)
			default:
				if r.Err != nil {
					t.Errorf("%s: key %d: %v", code, i, r.Err)
				}
			}
		}
		// Where all are denied the call fails, as it did.
		_, err = s.BatchGet(t.Context(), ids[3:4])
		wantCode(t, err, want)
	}
}

func TestForeignAnswers(t *testing.T) {
	t.Parallel()
	root := folder(t)
	p := newProxy(t)
	s := p.behind(openStore(t, at(root)))
	k := id(t, "acme", "api", "k")
	foreign := param(root+"/globex/api/k", "globex's", 1)
	p.answer("GetParameter", 1, func(map[string]any) any { return map[string]any{"Parameter": foreign} })
	p.answer("GetParameters", 1, func(map[string]any) any { return map[string]any{"Parameters": []any{foreign}} })
	p.answer("GetParameterHistory", 1, func(map[string]any) any { return map[string]any{"Parameters": []any{foreign}} })
	_, err := s.Get(t.Context(), k, 0)
	wantCode(t, err, config.Internal)
	results, err := s.BatchGet(t.Context(), []config.ID{k})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, results[0].Err, config.Internal)
	_, err = s.History(t.Context(), driver.HistoryRequest{ID: k})
	wantCode(t, err, config.Internal)
	// The version that was asked for.
	p.answer("GetParameter", 1, func(map[string]any) any { return map[string]any{"Parameter": param(root+"/acme/api/k", "1", 2)} })
	_, err = s.Get(t.Context(), k, 1)
	wantCode(t, err, config.Internal)
}

func TestValuesWithReferences(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	s := p.behind(openStore(t, at(folder(t))))
	p.refuse("PutParameter", 1, http.StatusBadRequest, "ValidationException", "can't nest another parameter")
	_, err := s.Put(t.Context(), driver.PutRequest{ID: id(t, "acme", "api", "k"), Value: []byte(`"{{ name }}"`)})
	if e := wantError(t, err, config.InvalidArgument); !strings.Contains(e.Hint, "{{...}}") || strings.Contains(err.Error(), "name") {
		t.Errorf("the error is %v", err)
	}
}

// raceRounds is how often two writers race; -args -race-rounds=1000 is the long
// form.
var raceRounds = flag.Int("race-rounds", 100, "how often two writers race for one key")

// Two processes write a key at the same time, each expecting what it has just
// read, hundreds of times: every version that was made is one that was
// acknowledged or one whose writer was told, and none is acknowledged twice.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	const rounds = 25 // of one key: its history stays short enough for one call
	keys := max(1, *raceRounds/rounds)
	o := at(folder(t))
	stores := []*Store{openStore(t, o), openStore(t, o)}
	var all tally
	for i := range keys {
		k := id(t, "acme", "api", fmt.Sprintf("counter-%02d", i))
		put(t, stores[0], k, "0")
		var one tally
		var g errgroup.Group
		for _, s := range stores {
			g.Go(func() error { return one.compete(t.Context(), s, k, rounds) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if versions := int(get(t, stores[0], k, 0).Version) - 1; len(one.acknowledged) < 1 || len(one.acknowledged)+one.told != versions {
			t.Errorf("%d versions were made, %d acknowledged and %d told of", versions, len(one.acknowledged), one.told)
		}
		all.told += one.told
		all.refused += one.refused
		all.writes += len(one.acknowledged)
	}
	t.Logf("of %d writes %d were acknowledged, %d made and told of a lost race, %d refused", 2*keys*rounds, all.writes, all.told, all.refused)
	if all.writes+all.told+all.refused != 2*keys*rounds {
		t.Error("some writes ended in none of these ways")
	}
}

// tally is what became of many writes.
type tally struct {
	mu                    sync.Mutex
	acknowledged          map[uint64]bool
	writes, told, refused int
}

// compete writes what it expects to be next, again and again.
func (n *tally) compete(ctx context.Context, s *Store, k config.ID, rounds int) error {
	for range rounds {
		e, err := s.Get(ctx, k, 0)
		if err != nil {
			return err
		}
		e, err = s.Put(ctx, driver.PutRequest{ID: k, Value: []byte("1"), Expect: driver.Version(e.Version)})
		var problem *config.Error
		n.mu.Lock()
		switch {
		case err == nil && n.acknowledged[e.Version]:
			err = fmt.Errorf("version %d was acknowledged twice", e.Version)
		case err == nil:
			if n.acknowledged == nil {
				n.acknowledged = map[uint64]bool{}
			}
			n.acknowledged[e.Version] = true
		case errors.As(err, &problem) && problem.Code == config.Conflict && strings.Contains(problem.Message, "written over"):
			n.told++
			err = nil
		case errors.As(err, &problem) && problem.Code == config.Conflict:
			n.refused++
			err = nil
		}
		n.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}
