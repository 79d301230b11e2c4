package main_test

import (
	"context"
	"io"
	"net/http"
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/tagstore/tagstore/emulators"
)

// config sends an SDK of the test to the account.
func (a *aws) config() sdk.Config {
	return sdk.Config{
		// Each call is made once: moto ends connections that it was about to be asked on.
		HTTPClient: &http.Client{Transport: emulators.PlainBody{RoundTripper: http.DefaultTransport}},
		Region:     "us-east-1", BaseEndpoint: sdk.String(a.server.URL),
		Credentials: sdk.CredentialsProviderFunc(func(context.Context) (sdk.Credentials, error) {
			return sdk.Credentials{AccessKeyID: "emulator", SecretAccessKey: "emulator"}, nil
		}),
	}
}

func (a *aws) s3() *s3.Client {
	return s3.NewFromConfig(a.config(), func(o *s3.Options) { o.UsePathStyle = true })
}

func (a *aws) bucket() string { return a.project + "-artifacts-" + account + "-us-east-1" }

// object reads one of the artifacts' bucket.
func (a *aws) object(t *testing.T, key string) string {
	t.Helper()
	got, err := a.s3().GetObject(t.Context(), &s3.GetObjectInput{Bucket: sdk.String(a.bucket()), Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
