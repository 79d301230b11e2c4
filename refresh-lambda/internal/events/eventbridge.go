package events

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/tagstore/tagstore/core/storemap"
)

// readers are the events of EventBridge that are understood, by source and
// detail-type. Each returns what changed, or why nothing did.
var readers = map[string]func(detail json.RawMessage) (Change, string, error){
	"aws.ssm/Parameter Store Change":                      parameterChange,
	"aws.secretsmanager/Secret Label Updated":             secretLabel,
	"aws.secretsmanager/AWS API Call via CloudTrail":      secretCall,
	"aws.secretsmanager/AWS Service Event via CloudTrail": secretRotation,
	"aws.s3/Object Created":                               objectChange,
	"aws.s3/Object Deleted":                               objectChange,
}

func parameterChange(detail json.RawMessage) (Change, string, error) {
	var d struct {
		Operation string  `json:"operation"`
		Name      *string `json:"name"`
		Exception *string `json:"exception"`
	}
	if err := json.Unmarshal(detail, &d); err != nil {
		return Change{}, "", err
	}
	name, err := text(d.Name, "detail.name")
	if err != nil {
		return Change{}, "", err
	}
	switch d.Operation {
	case "Create", "Update", "Delete", "LabelParameterVersion":
	default:
		return Change{}, "", problemf("its operation %s is unknown", storemap.Quote(d.Operation))
	}
	if d.Exception != nil {
		return Change{}, "the change of the parameter failed", nil
	}
	return Change{Kind: storemap.Parameters, Name: name}, "", nil
}

// current is the label of a secret's current version.
const current = "AWSCURRENT"

func secretLabel(detail json.RawMessage) (Change, string, error) {
	var d struct {
		Name  *string `json:"name"`
		Label *string `json:"labelUpdated"`
	}
	if err := json.Unmarshal(detail, &d); err != nil {
		return Change{}, "", err
	}
	name, err := text(d.Name, "detail.name")
	if err != nil {
		return Change{}, "", err
	}
	label, err := text(d.Label, "detail.labelUpdated")
	if err != nil {
		return Change{}, "", err
	}
	if label != current {
		return Change{}, "a label other than " + current + " was moved", nil
	}
	return Change{Kind: storemap.Secrets, Name: name}, "", nil
}

// secretCalls are the calls of Secrets Manager's API after which the current
// value may be another.
var secretCalls = []string{"CreateSecret", "PutSecretValue", "UpdateSecret", "UpdateSecretVersionStage", "DeleteSecret", "RestoreSecret"}

// secretCall reads a call that CloudTrail recorded.
func secretCall(detail json.RawMessage) (Change, string, error) {
	var d struct {
		EventSource string  `json:"eventSource"`
		EventName   string  `json:"eventName"`
		ErrorCode   *string `json:"errorCode"`
		Request     *struct {
			SecretID string   `json:"secretId"`
			Name     string   `json:"name"`
			Stage    *string  `json:"versionStage"`
			Stages   []string `json:"versionStages"`
		} `json:"requestParameters"`
		Response *struct {
			Name string `json:"name"`
			ARN  string `json:"arn"` // "aRN" too: encoding/json does not mind
		} `json:"responseElements"`
	}
	if err := json.Unmarshal(detail, &d); err != nil {
		return Change{}, "", err
	}
	switch {
	case d.EventSource != "secretsmanager.amazonaws.com":
		return Change{}, "", problemf("its eventSource %s is not Secrets Manager", storemap.Quote(d.EventSource))
	case !slices.Contains(secretCalls, d.EventName):
		return Change{}, "", problemf("the call %s changes no secret's value: leave it out of the rule", storemap.Quote(d.EventName))
	case d.ErrorCode != nil:
		return Change{}, "the call failed", nil
	case d.Request == nil:
		return Change{}, "", problemf("it has no detail.requestParameters")
	case d.Request.Stage != nil && *d.Request.Stage != current,
		len(d.Request.Stages) > 0 && !slices.Contains(d.Request.Stages, current):
		return Change{}, "a label other than " + current + " was moved", nil
	}
	// What the answer says is the name itself, whatever the request said.
	candidates := []string{}
	if d.Response != nil {
		candidates = append(candidates, d.Response.Name, d.Response.ARN)
	}
	for _, c := range append(candidates, d.Request.SecretID, d.Request.Name) {
		if c == "" {
			continue
		}
		name, err := secretName(c)
		return Change{Kind: storemap.Secrets, Name: name}, "", err
	}
	return Change{}, "", problemf("it names no secret: detail.requestParameters has neither secretId nor name")
}

// secretRotation reads what CloudTrail tells of rotations.
func secretRotation(detail json.RawMessage) (Change, string, error) {
	var d struct {
		EventSource string `json:"eventSource"`
		EventName   string `json:"eventName"`
		Additional  *struct {
			SecretID *string `json:"SecretId"`
		} `json:"additionalEventData"`
	}
	if err := json.Unmarshal(detail, &d); err != nil {
		return Change{}, "", err
	}
	switch {
	case d.EventSource != "secretsmanager.amazonaws.com":
		return Change{}, "", problemf("its eventSource %s is not Secrets Manager", storemap.Quote(d.EventSource))
	case d.EventName != "RotationSucceeded":
		return Change{}, "", problemf("the service event %s changes no secret's value: leave it out of the rule", storemap.Quote(d.EventName))
	case d.Additional == nil:
		return Change{}, "", problemf("it has no detail.additionalEventData")
	}
	id, err := text(d.Additional.SecretID, "detail.additionalEventData.SecretId")
	if err != nil {
		return Change{}, "", err
	}
	name, err := secretName(id)
	return Change{Kind: storemap.Secrets, Name: name}, "", err
}

// arnSuffix is what Secrets Manager puts behind a secret's name in its ARN.
var arnSuffix = regexp.MustCompile(`-[A-Za-z0-9]{6}$`)

// secretName returns the name of a secret that is given by its name or its ARN,
// arn:PARTITION:secretsmanager:REGION:ACCOUNT:secret:NAME-SUFFIX.
func secretName(id string) (string, error) {
	if !strings.HasPrefix(id, "arn:") {
		return id, nil
	}
	parts := strings.SplitN(id, ":", 7)
	if len(parts) < 7 || parts[2] != "secretsmanager" || parts[5] != "secret" {
		return "", problemf("%s is not a secret's ARN", storemap.Quote(id))
	}
	at := arnSuffix.FindStringIndex(parts[6])
	if at == nil || at[0] == 0 {
		return "", problemf("the ARN %s lacks the six characters at its end, and so its secret's name can not be told", storemap.Quote(id))
	}
	return parts[6][:at[0]], nil
}

func objectChange(detail json.RawMessage) (Change, string, error) {
	var d struct {
		Bucket *struct {
			Name *string `json:"name"`
		} `json:"bucket"`
		Object *struct {
			Key *string `json:"key"`
		} `json:"object"`
	}
	if err := json.Unmarshal(detail, &d); err != nil {
		return Change{}, "", err
	}
	if d.Bucket == nil || d.Object == nil {
		return Change{}, "", problemf("it has no detail.bucket and detail.object")
	}
	bucket, err := text(d.Bucket.Name, "detail.bucket.name")
	if err != nil {
		return Change{}, "", err
	}
	key, err := text(d.Object.Key, "detail.object.key")
	if err != nil {
		return Change{}, "", err
	}
	return Change{Kind: storemap.Objects, Container: bucket, Name: key}, "", nil
}
