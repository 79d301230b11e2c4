package emulators

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestOperation(t *testing.T) {
	for _, c := range []struct {
		method, url, service, target, form string
		want                               string
	}{
		{method: "POST", url: "/", service: "ssm", target: "AmazonSSM.GetParametersByPath", want: "GetParametersByPath"},
		{method: "POST", url: "/", service: "dynamodb", target: "DynamoDB_20120810.TransactWriteItems", want: "TransactWriteItems"},
		{method: "POST", url: "/", service: "secretsmanager", target: "secretsmanager.BatchGetSecretValue", want: "BatchGetSecretValue"},
		{method: "POST", url: "/", service: "sts", form: "Action=AssumeRole&Version=2011-06-15", want: "AssumeRole"},
		{method: "GET", url: "/b/k?x-id=GetObject&versionId=3", service: "s3", want: "GetObject"},
		{method: "PUT", url: "/b/a/b/c?x-id=PutObject", service: "s3", want: "PutObject"},
		{method: "DELETE", url: "/b/k", service: "s3", want: "DeleteObject"},
		{method: "HEAD", url: "/b/k", service: "s3", want: "HeadObject"},
		{method: "HEAD", url: "/b/", service: "s3", want: "HeadBucket"},
		{method: "PUT", url: "/b", service: "s3", want: "CreateBucket"},
		{method: "GET", url: "/b?list-type=2&prefix=a%2Fb&max-keys=7", service: "s3", want: "ListObjectsV2"},
		{method: "GET", url: "/b?prefix=a&versions", service: "s3", want: "ListObjectVersions"},
		{method: "GET", url: "/b?prefix=a", service: "s3", want: "ListObjects"},
		{method: "GET", url: "/b/k?tagging", service: "s3", want: "GetObjectTagging"},
		{method: "POST", url: "/b?delete", service: "s3", want: "DeleteObjects"},
		{method: "GET", url: "/", service: "s3", want: ""},
		{method: "GET", url: "/b/k", want: ""},
		{method: "POST", url: "/", want: ""},
	} {
		q := httptest.NewRequest(c.method, c.url, strings.NewReader(c.form))
		if c.service != "" {
			q.Header.Set("Authorization", signature(c.service))
		}
		if c.target != "" {
			q.Header.Set("X-Amz-Target", c.target)
		}
		if c.form != "" {
			q.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		}
		if got := operation(q, []byte(c.form)); got != c.want {
			t.Errorf("%s %s of %s is %q, not %q", c.method, c.url, c.service, got, c.want)
		}
	}
}

func TestCallMatches(t *testing.T) {
	get := call{operation: "GetObject", method: "GET", path: "/bucket/acme/orders/limit"}
	for pattern, want := range map[string]bool{
		"":                              true,
		"GetObject":                     true,
		"GET /bucket/acme/orders/limit": true,
		"GET /bucket/*/orders/*":        true,
		"GET /bucket/**":                true,
		"GET /bucket/acme/**":           true,
		"GetObjects":                    false,
		"Get":                           false,
		"PUT /bucket/**":                false,
		"GET /bucket/*":                 false,
		"GET /buck/**":                  false,
		"GET /bucket/acme":              false,
		"GET /bucket/[":                 false,
	} {
		if got := get.matches(pattern); got != want {
			t.Errorf("%q means the call: %t", pattern, got)
		}
	}
	if (call{method: "POST", path: "/"}).matches("GetObject") {
		t.Error("a call of no known operation is one of GetObject")
	}
}
