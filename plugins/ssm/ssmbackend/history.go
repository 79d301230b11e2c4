package ssmbackend

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// The bounds of a history.
const (
	// historyPage is how many versions GetParameterHistory returns at most.
	historyPage = 50
	// maxVersions is how many versions Parameter Store keeps of a parameter.
	maxVersions = 100
	// historyCalls ends a history that has pages and no end.
	historyCalls = 20
)

// History returns one page of the versions that are kept, newest first, with
// their authors and messages. It reads the whole history for each page, in two
// or three calls: Parameter Store tells it oldest first.
func (s *Store) History(ctx context.Context, r driver.HistoryRequest) (driver.Page, error) {
	const op = "ssm.History"
	page, err := s.history(ctx, call{op: op, id: r.ID}, r)
	if err != nil {
		return driver.Page{}, config.AsError(err, op, r.ID.Key)
	}
	return page, nil
}

func (s *Store) history(ctx context.Context, c call, r driver.HistoryRequest) (driver.Page, error) {
	if err := s.usable(ctx); err != nil {
		return driver.Page{}, err
	}
	if r.ID.IsZero() {
		return driver.Page{}, errNoID()
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, err
	}
	scope := []string{"history", r.ID.Tenant.String(), r.ID.Service.String(), r.ID.Key.String()}
	var before uint64 // 0: from the newest
	if r.PageToken != "" {
		payload, err := s.tokens.Open(r.PageToken, scope...)
		if err != nil {
			return driver.Page{}, err
		}
		if before, err = strconv.ParseUint(payload, 10, 64); err != nil {
			return driver.Page{}, config.Errorf(config.Internal, "a page token holds no version")
		}
	}
	name, err := s.nameToRead(r.ID)
	if err != nil {
		return driver.Page{}, err
	}
	versions, err := s.versions(ctx, c, name, true)
	if err != nil {
		return driver.Page{}, err
	}
	entries, err := historyOf(r.ID, versions)
	if err != nil {
		return driver.Page{}, err
	}
	if before > 0 {
		entries = slices.DeleteFunc(entries, func(e config.Entry) bool { return e.Version >= before })
	}
	page := driver.Page{Entries: fit(entries, size)}
	if n := len(page.Entries); n < len(entries) {
		page.NextPageToken = s.tokens.Seal(strconv.FormatUint(page.Entries[n-1].Version, 10), scope...)
	}
	return page, nil
}

// versions returns all versions of a parameter that are kept, oldest first.
// NotFound where the parameter does not exist.
func (s *Store) versions(ctx context.Context, c call, name string, decrypt bool) ([]types.ParameterHistory, error) {
	request := &ssm.GetParameterHistoryInput{
		Name: aws.String(name), WithDecryption: aws.Bool(decrypt), MaxResults: aws.Int32(historyPage),
	}
	var all []types.ParameterHistory
	for range historyCalls {
		out, err := do(ctx, s, c, s.client.GetParameterHistory, request)
		if err != nil {
			return nil, err
		}
		all = append(all, out.Parameters...)
		request.NextToken = out.NextToken
		if aws.ToString(out.NextToken) != "" {
			continue
		}
		for i, v := range all {
			if aws.ToString(v.Name) != name || v.Version < 1 || i > 0 && v.Version <= all[i-1].Version {
				return nil, errForeign()
			}
		}
		if len(all) == 0 { // it went between two calls
			return nil, errNotFound()
		}
		return all, nil
	}
	return nil, config.Errorf(config.Internal, "Parameter Store does not end the pages of a history")
}

// historyOf returns the versions as entries, newest first.
func historyOf(id config.ID, versions []types.ParameterHistory) ([]config.Entry, error) {
	entries := make([]config.Entry, 0, len(versions))
	var before *types.ParameterHistory
	for i := range versions {
		v := &versions[i]
		if v.Value == nil {
			return nil, errForeign()
		}
		e := stamp(id, v.Version, v.LastModifiedDate, v.Type)
		e.Value = []byte(*v.Value)
		e.ContentType = driver.InferType(e.Value)
		if v.Version == 1 || before != nil && !inherited(before, v) {
			e.Message, e.UpdatedBy = readDescription(aws.ToString(v.Description))
		} // else nobody can tell whose description it is
		entries = append(entries, e)
		before = v
	}
	slices.Reverse(entries)
	return entries, nil
}

// inherited reports whether a version may have its description from the version
// before it. Parameter Store hands it on where a writer names none, as other
// tools do, and would so name this store's author for another's change.
func inherited(before, v *types.ParameterHistory) bool {
	return aws.ToString(v.Description) == aws.ToString(before.Description) &&
		principal(aws.ToString(v.LastModifiedUser)) != principal(aws.ToString(before.LastModifiedUser))
}

// principal is who an ARN names, without the session of an assumed role, which
// every process chooses anew.
func principal(arn string) string {
	if !strings.Contains(arn, ":assumed-role/") {
		return arn
	}
	return arn[:strings.LastIndexByte(arn, '/')]
}
