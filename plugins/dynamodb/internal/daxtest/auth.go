package daxtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// clockSkew is how old a signature may be.
const clockSkew = 5 * time.Minute

// authorize checks what authorizeConnection carries: a Signature Version 4 of
// a request that is never sent. It returns what the next request fails with.
func authorize(want aws.Credentials, region string, now time.Time, args []any) *Failure {
	accessKey, is1 := args[0].(string)
	signature, is2 := args[1].(string)
	stringToSign, is3 := args[2].([]byte)
	sessionToken, is4 := args[3].(string)
	if !is1 || !is2 || !is3 || (!is4 && args[3] != nil) {
		return InvalidSignature
	}
	if accessKey != want.AccessKeyID || sessionToken != want.SessionToken {
		return UnknownKey
	}
	lines := strings.Split(string(stringToSign), "\n")
	if len(lines) != 4 || lines[0] != "AWS4-HMAC-SHA256" {
		return InvalidSignature
	}
	signed, err := time.Parse("20060102T150405Z", lines[1])
	if err != nil || signed.Before(now.Add(-clockSkew)) || signed.After(now.Add(clockSkew)) {
		return InvalidSignature
	}
	day := signed.Format("20060102")
	if lines[2] != day+"/"+region+"/dax/aws4_request" {
		return InvalidSignature
	}
	request := "POST\n/\n\nhost:https://dax.amazonaws.com\nx-amz-date:" + lines[1] + "\n\nhost;x-amz-date\n" + sha256Hex("")
	if lines[3] != sha256Hex(request) {
		return InvalidSignature
	}
	key := []byte("AWS4" + want.SecretAccessKey)
	for _, part := range []string{day, region, "dax", "aws4_request", string(stringToSign)} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	if !hmac.Equal([]byte(hex.EncodeToString(key)), []byte(signature)) {
		return InvalidSignature
	}
	return nil
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
