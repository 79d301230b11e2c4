package main_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/tagstore/tagstore/emulators"
)

// aws stands for an account: one endpoint for everything. CloudFormation's calls about
// the stack itself are answered by a script, in the words of its documentation, since
// moto knows hardly any of the stack's types; all others, those about the stack of
// artifacts among them, go to moto.
type aws struct {
	t       *testing.T
	server  *httptest.Server
	project string

	mu sync.Mutex
	// answering is how many calls are being answered; idle is told when none is.
	answering int
	idle      *sync.Cond
	// calls are what was asked, as service:Operation.
	calls []string
	// at is told of each call before it is answered.
	at func(call string)
	// refuse has answers of errors in place of others, by call: "Code: message".
	refuse map[string]string

	stack *scripted
	past  []*scripted // that were deleted
	next  int
	// outcome is how the next change ends, "" for well.
	outcome string
	// patience is for how many looks a stack is busy.
	patience int
	// physical are the ids of resources of nested stacks, as Data/DataKey.
	physical map[string]string
	outputs  map[string]string
}

// scripted is a stack whose answers are a script's.
type scripted struct {
	id, status, template string
	parameters           map[string]string
	sets                 map[string]*scriptedSet
	events               []scriptedEvent
	looks                int
	then                 func()
}

type scriptedSet struct {
	id, name, status, reason, kind, template string
	parameters                               map[string]string
}

type scriptedEvent struct{ id, stack, stackID, resource, physical, kind, status, reason string }

const account = "123456789012"

var credential = regexp.MustCompile(`Credential=[^/]+/\d{8}/[^/]+/([a-z0-9-]+)/aws4_request`)

// newAWS starts an account for a test, with a project of its own.
func newAWS(t *testing.T) *aws {
	t.Helper()
	a := &aws{
		t: t, project: "t" + shortName(), refuse: map[string]string{}, patience: 1,
		physical: map[string]string{}, outputs: map[string]string{},
	}
	a.idle = sync.NewCond(&a.mu)
	moto, err := url.Parse(emulators.Moto(t))
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(moto)
		r.Out.Host = r.In.Host
	}}
	a.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.answering++
		a.mu.Unlock()
		defer func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.answering--; a.answering == 0 {
				a.idle.Broadcast()
			}
		}()
		service, form := "", url.Values{}
		if m := credential.FindStringSubmatch(r.Header.Get("Authorization")); m != nil {
			service = m[1]
		}
		operation := r.Method + " " + r.URL.Path
		if target := r.Header.Get("X-Amz-Target"); target != "" {
			operation = target[strings.LastIndex(target, ".")+1:]
		}
		// Read to its end first, so that what was sent arrives even if who has sent it is
		// killed.
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return // it was killed before
		}
		r.Body = io.NopCloser(bytes.NewReader(text))
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			if form, err = url.ParseQuery(string(text)); err != nil {
				t.Error(err)
			}
			operation = form.Get("Action")
		}
		call := service + ":" + operation
		called.Store(operation, true)
		about := form.Get("StackName") + form.Get("ChangeSetName")
		ofArtifacts := strings.Contains(about, "-artifacts")
		if service == "cloudformation" && ofArtifacts {
			call += " artifacts"
		}
		a.mu.Lock()
		a.calls = append(a.calls, call)
		at, refusal := a.at, a.refuse[call]
		a.mu.Unlock()
		if at != nil {
			at(call)
		}
		switch {
		case refusal != "":
			code, message, _ := strings.Cut(refusal, ": ")
			fail(w, code, message)
		case service == "cloudformation" && !ofArtifacts:
			a.mu.Lock()
			defer a.mu.Unlock()
			a.answer(w, operation, form)
		default:
			proxy.ServeHTTP(struct{ http.ResponseWriter }{w}, r.WithContext(context.WithoutCancel(r.Context())))
			if call == "cloudformation:ExecuteChangeSet artifacts" {
				a.keepVersions(moto.String())
			}
		}
	}))
	t.Cleanup(a.server.Close)
	return a
}

// keepVersions does what moto's CloudFormation leaves out of the artifacts' bucket.
func (a *aws) keepVersions(moto string) {
	c := a.config()
	c.BaseEndpoint = &moto
	_, err := s3.NewFromConfig(c, func(o *s3.Options) { o.UsePathStyle = true }).PutBucketVersioning(context.Background(), &s3.PutBucketVersioningInput{
		Bucket: sdk.String(a.bucket()), VersioningConfiguration: &s3types.VersioningConfiguration{Status: s3types.BucketVersioningStatusEnabled},
	})
	if err != nil {
		a.t.Error(err)
	}
}

func (a *aws) name() string { return a.project + "-dev" }

func fail(w http.ResponseWriter, code, message string) {
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintf(w, `<ErrorResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>1</RequestId></ErrorResponse>`, code, text(message))
}

func text(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}

func result(w http.ResponseWriter, operation, body string) {
	fmt.Fprintf(w, `<%[1]sResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><%[1]sResult>%[2]s</%[1]sResult></%[1]sResponse>`, operation, body)
}

// newStack puts a stack there.
func (a *aws) newStack(status string) *scripted {
	a.next++
	s := &scripted{id: fmt.Sprintf("arn:aws:cloudformation:us-east-1:%s:stack/%s/%d", account, a.name(), a.next), status: status, sets: map[string]*scriptedSet{}}
	a.stack = s
	return s
}

func (s *scripted) happened(name, resource, kind, status, reason string) {
	s.events = append(s.events, scriptedEvent{
		id: fmt.Sprintf("%s/%d", s.id, len(s.events)), stack: name, stackID: s.id, resource: resource, physical: "p", kind: kind, status: status, reason: reason,
	})
}

// find finds a stack by its name or id.
func (a *aws) find(nameOrID string) *scripted {
	if a.stack != nil && (nameOrID == a.stack.id || nameOrID == a.name()) {
		return a.stack
	}
	for _, s := range a.past {
		if s.id == nameOrID {
			return s
		}
	}
	return nil
}

func (a *aws) answer(w http.ResponseWriter, operation string, form url.Values) {
	s := a.find(form.Get("StackName"))
	missing := func() { fail(w, "ValidationError", "Stack with id "+form.Get("StackName")+" does not exist") }
	switch operation {
	case "DescribeStacks":
		if s == nil {
			missing()
			return
		}
		if strings.HasSuffix(s.status, "_IN_PROGRESS") && s.then != nil {
			if s.looks++; s.looks > a.patience {
				s.looks = 0
				then := s.then
				s.then = nil
				then()
			}
		}
		var out strings.Builder
		fmt.Fprintf(&out, "<Stacks><member><StackName>%s</StackName><StackId>%s</StackId><StackStatus>%s</StackStatus><CreationTime>2026-11-27T00:00:00Z</CreationTime><Outputs>", a.name(), s.id, s.status)
		for name, value := range a.outputs {
			fmt.Fprintf(&out, "<member><OutputKey>%s</OutputKey><OutputValue>%s</OutputValue></member>", name, text(value))
		}
		result(w, operation, out.String()+"</Outputs></member></Stacks>")
	case "CreateChangeSet":
		kind := form.Get("ChangeSetType")
		if kind == "UPDATE" && s == nil {
			missing()
			return
		}
		if s == nil {
			s = a.newStack("REVIEW_IN_PROGRESS")
		}
		if form.Get("Capabilities.member.1") != "CAPABILITY_NAMED_IAM" || form.Get("Capabilities.member.2") != "CAPABILITY_AUTO_EXPAND" || form.Get("IncludeNestedStacks") != "true" {
			fail(w, "InsufficientCapabilitiesException", "Requires capabilities : [CAPABILITY_NAMED_IAM, CAPABILITY_AUTO_EXPAND]")
			return
		}
		name := form.Get("ChangeSetName")
		if s.sets[name] != nil {
			fail(w, "AlreadyExistsException", "ChangeSet "+name+" already exists")
			return
		}
		c := &scriptedSet{
			id: "arn:aws:cloudformation:us-east-1:" + account + ":changeSet/" + name + "/1", name: name, status: "CREATE_COMPLETE", kind: kind,
			template: form.Get("TemplateURL"), parameters: map[string]string{},
		}
		for i := 1; form.Has(fmt.Sprintf("Parameters.member.%d.ParameterKey", i)); i++ {
			c.parameters[form.Get(fmt.Sprintf("Parameters.member.%d.ParameterKey", i))] = form.Get(fmt.Sprintf("Parameters.member.%d.ParameterValue", i))
		}
		if kind == "UPDATE" && s.template == c.template && fmt.Sprint(s.parameters) == fmt.Sprint(c.parameters) {
			c.status, c.reason = "FAILED", "The submitted information didn't contain changes. Submit different information to create a change set."
		}
		s.sets[name] = c
		result(w, operation, "<Id>"+c.id+"</Id><StackId>"+s.id+"</StackId>")
	case "DescribeChangeSet", "DeleteChangeSet", "ExecuteChangeSet":
		name := form.Get("ChangeSetName")
		if a.stack != nil && s == nil {
			s = a.stack
		}
		if strings.Contains(name, "nested") {
			result(w, operation, "<Status>CREATE_COMPLETE</Status><Changes><member><Type>Resource</Type><ResourceChange><Action>Modify</Action><LogicalResourceId>ConfigTask</LogicalResourceId><ResourceType>AWS::ECS::TaskDefinition</ResourceType><Replacement>True</Replacement></ResourceChange></member></Changes>")
			return
		}
		var c *scriptedSet
		if s != nil {
			for _, set := range s.sets {
				if set.id == name || set.name == name {
					c = set
				}
			}
		}
		if c == nil {
			fail(w, "ChangeSetNotFound", "ChangeSet ["+name+"] does not exist")
			return
		}
		switch operation {
		case "DescribeChangeSet":
			action := "Add"
			if c.kind == "UPDATE" {
				action = "Modify"
			}
			execution := "AVAILABLE"
			if c.status == "FAILED" {
				execution = "UNAVAILABLE"
			}
			result(w, operation, fmt.Sprintf(`<ChangeSetName>%s</ChangeSetName><ChangeSetId>%s</ChangeSetId><StackId>%s</StackId><StackName>%s</StackName><Status>%s</Status><StatusReason>%s</StatusReason><ExecutionStatus>%s</ExecutionStatus><Changes>
<member><Type>Resource</Type><ResourceChange><Action>%[8]s</Action><LogicalResourceId>Services</LogicalResourceId><ResourceType>AWS::CloudFormation::Stack</ResourceType><ChangeSetId>arn:aws:cloudformation:us-east-1:1:changeSet/nested/1</ChangeSetId></ResourceChange></member></Changes>`,
				c.name, c.id, s.id, a.name(), c.status, c.reason, execution, action))
		case "DeleteChangeSet":
			delete(s.sets, c.name)
			result(w, operation, "")
		case "ExecuteChangeSet":
			verb := strings.TrimSuffix(c.kind, "E") + "E"
			s.status = verb + "_IN_PROGRESS"
			s.happened(a.name(), a.name(), "AWS::CloudFormation::Stack", s.status, "User Initiated")
			delete(s.sets, c.name)
			outcome := a.outcome
			s.then = func() {
				if outcome != "" {
					s.happened(a.name()+"-Services", "ConfigService", "AWS::ECS::Service", verb+"_FAILED", "ECS Deployment Circuit Breaker was triggered")
					s.happened(a.name()+"-Services", "OrderService", "AWS::ECS::Service", verb+"_FAILED", "Resource creation cancelled")
					s.status = outcome
					return
				}
				s.template, s.parameters, s.status = c.template, c.parameters, verb+"_COMPLETE"
				s.happened(a.name(), a.name(), "AWS::CloudFormation::Stack", s.status, "")
			}
			result(w, operation, "")
		}
	case "DescribeStackEvents":
		if s == nil {
			missing()
			return
		}
		var out strings.Builder
		for _, e := range slices.Backward(s.events) {
			fmt.Fprintf(&out, "<member><EventId>%s</EventId><StackName>%s</StackName><StackId>%s</StackId><LogicalResourceId>%s</LogicalResourceId><PhysicalResourceId>%s</PhysicalResourceId><ResourceType>%s</ResourceType><ResourceStatus>%s</ResourceStatus><ResourceStatusReason>%s</ResourceStatusReason><Timestamp>%s</Timestamp></member>",
				e.id, e.stack, e.stackID, e.resource, e.physical, e.kind, e.status, text(e.reason), time.Now().UTC().Format(time.RFC3339))
		}
		result(w, operation, "<StackEvents>"+out.String()+"</StackEvents>")
	case "ListStackResources":
		var out strings.Builder
		for path, id := range a.physical {
			nested, resource, _ := strings.Cut(path, "/")
			switch form.Get("StackName") {
			case a.name():
				fmt.Fprintf(&out, "<member><LogicalResourceId>%s</LogicalResourceId><PhysicalResourceId>%s-%[1]s</PhysicalResourceId><ResourceType>AWS::CloudFormation::Stack</ResourceType><ResourceStatus>CREATE_COMPLETE</ResourceStatus><LastUpdatedTimestamp>2026-11-27T00:00:00Z</LastUpdatedTimestamp></member>", nested, a.name())
			case a.name() + "-" + nested:
				fmt.Fprintf(&out, "<member><LogicalResourceId>%s</LogicalResourceId><PhysicalResourceId>%s</PhysicalResourceId><ResourceType>AWS::X::Y</ResourceType><ResourceStatus>CREATE_COMPLETE</ResourceStatus><LastUpdatedTimestamp>2026-11-27T00:00:00Z</LastUpdatedTimestamp></member>", resource, id)
			}
		}
		result(w, operation, "<StackResourceSummaries>"+out.String()+"</StackResourceSummaries>")
	case "DescribeStackResource":
		resource, id := form.Get("LogicalResourceId"), ""
		for path, physical := range a.physical {
			nested, name, _ := strings.Cut(path, "/")
			switch {
			case form.Get("StackName") == a.name() && nested == resource:
				id = a.name() + "-" + nested
			case form.Get("StackName") == a.name()+"-"+nested && name == resource:
				id = physical
			}
		}
		if id == "" {
			fail(w, "ValidationError", "Resource "+resource+" does not exist for stack")
			return
		}
		result(w, operation, "<StackResourceDetail><LogicalResourceId>"+resource+"</LogicalResourceId><PhysicalResourceId>"+id+"</PhysicalResourceId><ResourceType>x</ResourceType><ResourceStatus>CREATE_COMPLETE</ResourceStatus><LastUpdatedTimestamp>2026-11-27T00:00:00Z</LastUpdatedTimestamp></StackResourceDetail>")
	case "DeleteStack":
		if s == nil {
			result(w, operation, "") // which AWS does, too
			return
		}
		s.status = "DELETE_IN_PROGRESS"
		s.happened(a.name(), a.name(), "AWS::CloudFormation::Stack", s.status, "User Initiated")
		outcome := a.outcome
		s.then = func() {
			if outcome != "" {
				s.happened(a.name()+"-Network", "Vpc", "AWS::EC2::VPC", "DELETE_FAILED", "The vpc has dependencies and cannot be deleted")
				s.status = outcome
				return
			}
			s.status = "DELETE_COMPLETE"
			a.past, a.stack = append(a.past, s), nil
		}
		result(w, operation, "")
	case "ContinueUpdateRollback":
		s.status = "UPDATE_ROLLBACK_IN_PROGRESS"
		s.then = func() { s.status = "UPDATE_ROLLBACK_COMPLETE" }
		result(w, operation, "")
	default:
		a.t.Errorf("the script has no answer to %s", operation)
		fail(w, "InvalidAction", operation)
	}
}
