package emulators

import (
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// operation names the API operation that a request is for, as AWS names it
// ("GetItem", "PutParameter", "AssumeRole", "PutObject"): from the target
// header, the Action of a form, or S3's methods, paths and queries. It is ""
// where none of them says.
func operation(q *http.Request, body []byte) string {
	if _, name, ok := strings.Cut(q.Header.Get("X-Amz-Target"), "."); ok {
		return name
	}
	if strings.HasPrefix(q.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		if form, err := url.ParseQuery(string(body)); err == nil && form.Has("Action") {
			return form.Get("Action")
		}
	}
	if signedFor(q) == "s3" {
		return s3Operation(q)
	}
	return ""
}

var scope = regexp.MustCompile(`Credential=[^/]+/\d{8}/[^/]+/([a-z0-9-]+)/aws4_request`)

// signedFor returns the service that the request was signed for, "" if none.
func signedFor(q *http.Request) string {
	if found := scope.FindStringSubmatch(q.Header.Get("Authorization")); found != nil {
		return found[1]
	}
	return ""
}

// s3Operations are the operations on a bucket and on an object that neither
// x-id nor the method alone tells: by method, level and query parameter.
var s3Operations = map[string]string{
	"GET bucket list-type":    "ListObjectsV2",
	"GET bucket versions":     "ListObjectVersions",
	"GET bucket versioning":   "GetBucketVersioning",
	"PUT bucket versioning":   "PutBucketVersioning",
	"POST bucket delete":      "DeleteObjects",
	"GET object tagging":      "GetObjectTagging",
	"PUT object tagging":      "PutObjectTagging",
	"DELETE object tagging":   "DeleteObjectTagging",
	"GET object attributes":   "GetObjectAttributes",
	"POST object uploads":     "CreateMultipartUpload",
	"GET bucket":              "ListObjects",
	"HEAD bucket":             "HeadBucket",
	"PUT bucket":              "CreateBucket",
	"DELETE bucket":           "DeleteBucket",
	"HEAD object":             "HeadObject",
	"GET object":              "GetObject",
	"PUT object":              "PutObject",
	"DELETE object":           "DeleteObject",
	"GET object uploadId":     "ListParts",
	"PUT object uploadId":     "UploadPart",
	"POST object uploadId":    "CompleteMultipartUpload",
	"DELETE object uploadId":  "AbortMultipartUpload",
	"GET bucket uploads":      "ListMultipartUploads",
	"GET bucket policy":       "GetBucketPolicy",
	"PUT bucket policy":       "PutBucketPolicy",
	"GET bucket notification": "GetBucketNotificationConfiguration",
	"PUT bucket notification": "PutBucketNotificationConfiguration",
}

// s3Operation tells S3's operations apart. The SDKs name some of them in the
// query, as x-id.
func s3Operation(q *http.Request) string {
	query := q.URL.Query()
	if named := query.Get("x-id"); named != "" {
		return named
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(q.URL.Path, "/"), "/")
	level := "object"
	switch {
	case bucket == "":
		return ""
	case key == "":
		level = "bucket"
	}
	at := q.Method + " " + level
	for name := range query {
		if found, ok := s3Operations[at+" "+name]; ok {
			return found
		}
	}
	return s3Operations[at]
}

// A call is one request as the proxy saw it.
type call struct{ operation, method, path string }

// matches says whether the call is one that pattern means: an operation's
// name; "METHOD /path", where a * stands for anything but a slash and a /** at
// the end for everything below; or "", which means every call.
func (c call) matches(pattern string) bool {
	method, below, isPath := strings.Cut(pattern, " ")
	switch {
	case pattern == "" || pattern == c.operation:
		return true
	case !isPath || method != c.method:
		return false
	}
	if folder, ok := strings.CutSuffix(below, "/**"); ok {
		return strings.HasPrefix(c.path, folder+"/")
	}
	ok, err := path.Match(below, c.path)
	return ok && err == nil
}
