package s3backend

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"net/url"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/tagstore/tagstore/core/config"
)

// entry is one line of S3's version list: a version of the object, or a delete
// marker.
type entry struct {
	id       string
	etag     string // "" for a delete marker
	size     int64
	modified time.Time
	marker   bool
	current  bool
}

func (e entry) revision() string { return revisionOf(e.id, e.etag) }

// maxListing bounds the answer to a listing: 1,000 lines with the longest key,
// percent-encoded.
const maxListing = 8 << 20

// versionsOf returns lines of the version list of exactly one object, newest
// first, from behind the version id after, or from the top for "". more says
// that there are further ones. The error is the SDK's or ours.
func (s *Store) versionsOf(ctx context.Context, tenant config.Tenant, path, after string, most int) (lines []entry, more bool, served time.Time, err error) {
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	in := &s3.ListObjectVersionsInput{
		Bucket: &s.bucket, Prefix: &path, MaxKeys: aws.Int32(int32(min(most, 1000))), EncodingType: types.EncodingTypeUrl,
	}
	if after != "" {
		in.KeyMarker, in.VersionIdMarker = &path, &after
	}
	var listed versionList
	out, err := s.client.ListObjectVersions(ctx, in, s.as(tenant), func(o *s3.Options) {
		o.APIOptions = append(slices.Clone(o.APIOptions), listed.capture)
	})
	if err != nil {
		return nil, false, time.Time{}, err
	}
	more = aws.ToBool(out.IsTruncated)
	lines = make([]entry, 0, len(listed.Lines))
	for _, line := range listed.Lines {
		if line.XMLName.Local != "Version" && line.XMLName.Local != "DeleteMarker" {
			continue
		}
		// The object itself comes before those whose keys are longer.
		if key, err := url.QueryUnescape(line.Key); err != nil || key != path {
			more = false
			continue
		}
		e := entry{id: line.VersionID, size: line.Size, modified: line.LastModified.UTC(), marker: line.XMLName.Local == "DeleteMarker", current: line.IsLatest}
		if !e.marker {
			e.etag = unquoted(line.ETag)
		}
		lines = append(lines, e)
	}
	return inOrder(lines), more, serverTime(out.ResultMetadata), nil
}

// versionList is the body of the answer. S3 writes versions and delete markers
// in one order, newest first; the SDK's own type has them in two lists, which
// can not be put together again by their times: those have whole seconds.
type versionList struct {
	Lines []struct {
		XMLName      xml.Name
		Key          string
		VersionID    string    `xml:"VersionId"`
		ETag         string    `xml:"ETag"`
		Size         int64     `xml:"Size"`
		IsLatest     bool      `xml:"IsLatest"`
		LastModified time.Time `xml:"LastModified"`
	} `xml:",any"`
}

// capture reads the body before the SDK does.
func (l *versionList) capture(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("TagstoreVersionList", func(
		ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
	) (middleware.DeserializeOutput, middleware.Metadata, error) {
		out, metadata, err := next.HandleDeserialize(ctx, in)
		answer, ok := out.RawResponse.(*smithyhttp.Response)
		if err != nil || !ok || answer.StatusCode != 200 {
			return out, metadata, err
		}
		body, err := io.ReadAll(io.LimitReader(answer.Body, maxListing+1))
		answer.Body.Close()
		if err == nil && len(body) > maxListing {
			err = config.Errorf(config.Internal, "S3's version list is longer than it can be")
		}
		if err != nil {
			return out, metadata, err
		}
		answer.Body = io.NopCloser(bytes.NewReader(body))
		*l = versionList{}
		return out, metadata, xml.Unmarshal(body, l)
	}), middleware.After)
}

// inOrder puts lines in order that stand as two lists, all versions before all
// delete markers, each newest first: servers other than S3 write them so. What
// is current comes first, and the two are merged by time where the times say
// that the second list is not simply older. Where those have whole seconds too,
// a delete marker goes on top of what can be a tombstone. S3's own lists stay as
// they are.
func inOrder(lines []entry) []entry {
	split := slices.IndexFunc(lines, func(e entry) bool { return e.marker })
	if split <= 0 || slices.ContainsFunc(lines[split:], func(e entry) bool { return !e.marker }) {
		return lines
	}
	versions, markers := lines[:split], lines[split:]
	if !markers[0].current && !markers[0].modified.After(versions[split-1].modified) {
		return lines
	}
	merged := make([]entry, 0, len(lines))
	for len(versions) > 0 && len(markers) > 0 {
		v, m := versions[0], markers[0]
		buried := v.size == tombstoneSize && m.modified.Equal(v.modified) && (len(merged) == 0 || !merged[len(merged)-1].marker)
		if m.current || m.modified.After(v.modified) || buried && !v.current {
			merged, markers = append(merged, m), markers[1:]
		} else {
			merged, versions = append(merged, v), versions[1:]
		}
	}
	return append(append(merged, versions...), markers...)
}
