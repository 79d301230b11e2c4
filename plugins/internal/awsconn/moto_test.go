package awsconn

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/emulators"
)

// TestMotoSessions assumes the role of each tenant at an STS that is not this
// package's own, and asks it who calls.
func TestMotoSessions(t *testing.T) {
	conn := openAt(t, emulators.Moto(t), Options{TenantRole: role, TenantRoleDuration: "15m", Timeout: "30s"})
	client := sts.NewFromConfig(conn.Config())
	keys := map[string]string{}
	for _, name := range []string{"acme", "acme-corp", "a", "_shared"} {
		p := conn.Credentials(tenant(t, name))
		who, err := client.GetCallerIdentity(t.Context(), nil, func(o *sts.Options) { o.Credentials = p })
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want := ":assumed-role/tenant/" + sessionName(tenant(t, name)); !strings.HasSuffix(aws.ToString(who.Arn), want) {
			t.Errorf("%s calls as %s, want %s", name, aws.ToString(who.Arn), want)
		}
		held, err := p.Retrieve(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := keys[held.AccessKeyID]; taken {
			t.Errorf("%s and %s share a session", name, other)
		}
		keys[held.AccessKeyID] = name
		if life := time.Until(held.Expires); !held.CanExpire || life > 15*time.Minute || life < 13*time.Minute {
			t.Errorf("the session of %s ends in %s", name, life)
		}
	}
}

// TestMotoCalls makes calls of a store with a tenant's session, and checks that
// moto's errors are mapped as AWS's are.
func TestMotoCalls(t *testing.T) {
	conn := openAt(t, emulators.Moto(t), Options{TenantRole: role, Timeout: "30s"})
	client := ssm.NewFromConfig(conn.Config())
	counted := conn.CountCalls()
	mine := func(o *ssm.Options) { o.Credentials = conn.Credentials(tenant(t, "acme")) }
	once := func(o *ssm.Options) { o.Retryer = conn.Once() }
	name := aws.String("/" + emulators.Name(t, "awsconn") + "/acme/limit")
	put := &ssm.PutParameterInput{Name: name, Value: aws.String("7"), Type: ssmtypes.ParameterTypeString}
	if _, err := client.PutParameter(t.Context(), put, mine, once); err != nil {
		t.Fatal(err)
	}
	got, err := client.GetParameter(t.Context(), &ssm.GetParameterInput{Name: name}, mine)
	if err != nil || aws.ToString(got.Parameter.Value) != "7" {
		t.Fatalf("got %v, %v", got, err)
	}
	codes := Codes{"ParameterAlreadyExists": config.Conflict, "ParameterNotFound": config.NotFound}
	_, err = client.PutParameter(t.Context(), put, mine, once)
	if err := Error("ssm.Put", config.Key{}, err, true, codes); config.CodeOf(err) != config.Conflict {
		t.Errorf("put of what is there: %v", err)
	}
	if _, err := client.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: name}, mine); err != nil {
		t.Fatal(err)
	}
	_, err = client.GetParameter(t.Context(), &ssm.GetParameterInput{Name: name}, mine)
	if err := Error("ssm.Get", config.Key{}, err, false, codes); config.CodeOf(err) != config.NotFound {
		t.Errorf("get of what is not there: %v", err)
	}
	if s := counted.String(); s != "AssumeRole 1/1, DeleteParameter 1/1, GetParameter 2/2, PutParameter 2/2" {
		t.Errorf("counted: %s", s)
	}
}
