package awsconn

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
)

func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "AWS_") {
			_ = os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(m)
}

// setenv gives the SDK what it needs to talk to endpoint, and nothing else.
func setenv(t testing.TB, endpoint string) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	noFiles(t)
}

func noFiles(t testing.TB) {
	t.Helper()
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
}

// openAt opens a Conn whose every endpoint is this URL.
func openAt(t testing.TB, endpoint string, o Options) *Conn {
	t.Helper()
	setenv(t, endpoint)
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatalf("open: %v (%v)", err, config.AsError(err, "", config.Key{}).Err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// serve starts a server that stands in for AWS, on loopback.
func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// fail answers as the JSON protocols do.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(status)
	body, _ := json.Marshal(map[string]string{"__type": "com.amazonaws.service#" + code, "message": message})
	_, _ = w.Write(body)
}

// succeed answers every operation of DynamoDB and of SSM that the tests use.
func succeed(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	_, _ = io.WriteString(w, `{}`)
}

func get(ctx context.Context, c *dynamodb.Client, options ...func(*dynamodb.Options)) error {
	_, err := c.GetItem(ctx, &dynamodb.GetItemInput{TableName: aws.String("configs"), Key: item()}, options...)
	return err
}

func put(ctx context.Context, c *dynamodb.Client, options ...func(*dynamodb.Options)) error {
	_, err := c.PutItem(ctx, &dynamodb.PutItemInput{TableName: aws.String("configs"), Item: item()}, options...)
	return err
}

func item() map[string]ddbtypes.AttributeValue {
	return map[string]ddbtypes.AttributeValue{"pk": &ddbtypes.AttributeValueMemberS{Value: "TENANT#acme-corp"}}
}

func parameter(ctx context.Context, c *ssm.Client, options ...func(*ssm.Options)) error {
	_, err := c.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String("/config-service/acme-corp/limit")}, options...)
	return err
}

func tenant(t testing.TB, s string) config.Tenant {
	t.Helper()
	v, err := config.ParseOwner(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func key(t testing.TB, s string) config.Key {
	t.Helper()
	k, err := config.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
