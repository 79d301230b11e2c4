package secretsbackend

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// rules stands in front of moto and holds it to what Secrets Manager does, where
// the two differ:
//
//   - A secret in its recovery window refuses every write, and its name can not
//     be used for a new one. moto lets both pass.
//   - BatchGetSecretValue answers the versions that are AWSCURRENT. moto answers
//     the one that was made current first.
//   - PutSecretValue without labels takes AWSCURRENT from where it is. moto may
//     leave it on two versions.
//   - ListSecretVersionIds tells the ARN, when a version was made, and that there
//     is no such secret. moto answers the name, the present time, and 500.
//   - DescribeSecret leaves versions without labels out. moto lists them.
//   - A name has up to 512 characters and a value up to 65,536 bytes. moto takes
//     more.
//
// It handles one call at a time, so that each is atomic as it is at AWS.
type rules struct {
	moto *url.URL

	mu   sync.Mutex
	made map[string]float64 // secret and version -> when, in seconds
}

func newRules(moto string) *httptest.Server {
	u, err := url.Parse(moto)
	if err != nil {
		panic(err)
	}
	return httptest.NewServer(&rules{moto: u, made: map[string]float64{}})
}

type object = map[string]any

func (r *rules) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	_, operation, _ := strings.Cut(q.Header.Get("X-Amz-Target"), ".")
	raw, err := io.ReadAll(q.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	var in object
	if operation == "" || json.Unmarshal(raw, &in) != nil { // STS
		q.Body = io.NopCloser(bytes.NewReader(raw))
		httputil.NewSingleHostReverseProxy(r.moto).ServeHTTP(w, q)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &motoCall{rules: r, header: q.Header}
	status, out := c.apply(operation, in)
	body, err := json.Marshal(out)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone
}

type motoCall struct {
	*rules
	header http.Header
}

func refusal(code, message string) (int, object) {
	return http.StatusBadRequest, object{"__type": code, "message": message}
}

func (c *motoCall) apply(operation string, in object) (int, object) {
	name, _ := in["SecretId"].(string)
	if operation == "CreateSecret" {
		name, _ = in["Name"].(string)
	}
	if len(name) > 512 {
		return refusal("ValidationException", "the name is too long")
	}
	if text, _ := in["SecretString"].(string); len(text) > 65_536 {
		return refusal("ValidationException", "the value is too long")
	}
	switch operation {
	case "CreateSecret":
		if c.scheduled(name) {
			return refusal("InvalidRequestException", "You can't create this secret because a secret with this name is already scheduled for deletion.")
		}
	case "PutSecretValue", "UpdateSecretVersionStage", "UpdateSecret":
		if c.scheduled(name) {
			return refusal("InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion.")
		}
	case "ListSecretVersionIds":
		status, described := c.send("DescribeSecret", object{"SecretId": name})
		if status != http.StatusOK {
			return status, described
		}
		status, out := c.send(operation, in)
		if versions, ok := out["Versions"].([]any); ok {
			for _, v := range versions {
				c.date(name, v.(object))
			}
			out["ARN"] = described["ARN"]
		}
		return status, out
	case "BatchGetSecretValue":
		return c.batch(in)
	}
	if operation == "PutSecretValue" {
		if stages, ok := in["VersionStages"].([]any); !ok || slices.Contains(stages, any(labelCurrent)) {
			if current := c.current(name); current != "" && current != in["ClientRequestToken"] {
				return c.putCurrent(in, name, current)
			}
		}
	}
	status, out := c.send(operation, in)
	if status != http.StatusOK {
		return status, out
	}
	switch operation {
	case "CreateSecret", "PutSecretValue":
		if version, ok := out["VersionId"].(string); ok {
			if _, known := c.made[name+" "+version]; !known {
				c.made[name+" "+version] = float64(time.Now().UnixMilli()) / 1000
			}
		}
	case "GetSecretValue":
		c.date(name, out)
	case "DescribeSecret":
		if stages, ok := out["VersionIdsToStages"].(object); ok {
			maps.DeleteFunc(stages, func(_ string, labels any) bool { return len(labels.([]any)) == 0 })
		}
	}
	return status, out
}

func (c *motoCall) date(name string, version object) {
	if at, ok := c.made[name+" "+version["VersionId"].(string)]; ok {
		version["CreatedDate"] = at
	}
}

func (c *motoCall) scheduled(name string) bool {
	_, out := c.send("DescribeSecret", object{"SecretId": name})
	return out["DeletedDate"] != nil
}

func (c *motoCall) current(name string) string {
	_, out := c.send("DescribeSecret", object{"SecretId": name})
	stages, _ := out["VersionIdsToStages"].(object)
	for version, labels := range stages {
		if slices.Contains(labels.([]any), any(labelCurrent)) {
			return version
		}
	}
	return ""
}

func (c *motoCall) putCurrent(in object, name, current string) (int, object) {
	in["VersionStages"] = []string{"rules"}
	status, out := c.send("PutSecretValue", in)
	if status != http.StatusOK {
		return status, out
	}
	made := out["VersionId"].(string)
	c.made[name+" "+made] = float64(time.Now().UnixMilli()) / 1000
	for _, move := range []object{
		{"VersionStage": labelCurrent, "RemoveFromVersionId": current, "MoveToVersionId": made},
		{"VersionStage": "rules", "RemoveFromVersionId": made},
	} {
		move["SecretId"] = name
		if status, out := c.send("UpdateSecretVersionStage", move); status != http.StatusOK {
			return status, out
		}
	}
	out["VersionStages"] = []string{labelCurrent}
	return status, out
}

func (c *motoCall) batch(in object) (int, object) {
	names, _ := in["SecretIdList"].([]any)
	if len(names) > 20 || in["Filters"] != nil {
		return refusal("InvalidParameterException", "up to 20 names")
	}
	values, errs := []object{}, []object{}
	for _, name := range names {
		status, out := c.apply("GetSecretValue", object{"SecretId": name, "VersionStage": labelCurrent})
		if status == http.StatusOK {
			values = append(values, out)
			continue
		}
		errs = append(errs, object{"SecretId": name, "ErrorCode": out["__type"], "Message": out["message"]})
	}
	slices.Reverse(values) // in no order that could be relied on
	return http.StatusOK, object{"SecretValues": values, "Errors": errs}
}

// send makes a call of moto.
func (c *motoCall) send(operation string, in object) (int, object) {
	body, err := json.Marshal(in)
	if err != nil {
		panic(err)
	}
	q, err := http.NewRequest(http.MethodPost, c.moto.String(), bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	q.Header = c.header.Clone()
	q.Header.Set("X-Amz-Target", "secretsmanager."+operation)
	q.Header.Del("Content-Length")
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer a.Body.Close()
	out := object{}
	raw, err := io.ReadAll(a.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return http.StatusInternalServerError, object{"__type": "InternalFailure", "message": "moto failed"}
	}
	if t, ok := out["__type"].(string); ok {
		_, after, cut := strings.Cut(t, "#")
		if cut {
			out["__type"] = after
		}
		if out["message"] == nil {
			out["message"] = out["Message"]
		}
	}
	return a.StatusCode, out
}
