package cloudformation

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const stackType = "AWS::CloudFormation::Stack"

type nothing struct{}

// noValue is what AWS::NoValue is: what has it is not there.
var noValue any = nothing{}

// Stack is a template that was evaluated with parameters.
type Stack struct {
	Name       string
	Template   *Template
	Parameters map[string]any
	// Resources are those whose condition holds.
	Resources map[string]Resource
	Outputs   map[string]any
	// Nested has the stacks in it, by the name of their resource.
	Nested map[string]*Stack

	conditions map[string]bool
	place      Place
	// read reads a template by the name that a TemplateURL has.
	read func(name string) (*Template, error)
}

// Place is the account and the region that a stack would be in.
type Place struct{ Account, Region string }

// somewhere is where no place is given.
var somewhere = Place{Account: "123456789012", Region: "eu-central-1"}

// Resource is a resource of a stack.
type Resource struct {
	Name, Type string
	Properties map[string]any
	Metadata   map[string]any
	// DeletionPolicy is empty for the default of its type.
	DeletionPolicy string
}

// failure carries an error out of the depths of an evaluation.
type failure struct{ error }

// New evaluates the template in a file, and those that it nests.
func New(file string, parameters map[string]any) (*Stack, error) {
	folder := filepath.Dir(file)
	return evaluate(filepath.Base(file), parameters, somewhere, func(name string) (*Template, error) { return Read(filepath.Join(folder, name)) })
}

// NewAt evaluates one of [Templates], and those that it nests, for a place.
func NewAt(place Place, name string, parameters map[string]any) (*Stack, error) {
	return evaluate(name, parameters, place, func(name string) (*Template, error) {
		text, err := Templates.ReadFile(name)
		if err != nil {
			return nil, err
		}
		return Parse(name, text)
	})
}

func evaluate(name string, parameters map[string]any, place Place, read func(string) (*Template, error)) (s *Stack, err error) {
	defer func() {
		switch caught := recover().(type) {
		case nil:
		case failure:
			err = caught.error
		default:
			panic(caught)
		}
	}()
	return newStack("stack", name, parameters, place, read), nil
}

func newStack(name, file string, parameters map[string]any, place Place, read func(string) (*Template, error)) *Stack {
	t, err := read(file)
	if err != nil {
		panic(failure{err})
	}
	s := &Stack{
		Name: name, Template: t, Parameters: map[string]any{}, Resources: map[string]Resource{}, Outputs: map[string]any{},
		Nested: map[string]*Stack{}, conditions: map[string]bool{}, place: place, read: read,
	}
	for p, value := range parameters {
		if _, declared := t.Sections["Parameters"][p]; !declared {
			s.fail("it has no parameter %s", p)
		}
		s.Parameters[p] = value
	}
	for p, declared := range t.Sections["Parameters"] {
		d, _ := declared.(map[string]any)
		if _, given := s.Parameters[p]; !given {
			value, ok := d["Default"]
			if !ok {
				s.fail("the parameter %s is not given", p)
			}
			s.Parameters[p] = text(value)
		}
		if allowed, ok := d["AllowedValues"].([]any); ok && !slices.Contains(allowed, s.Parameters[p]) {
			s.fail("%v is not among the values of %s", s.Parameters[p], p)
		}
		if kind, _ := d["Type"].(string); strings.HasPrefix(kind, "List<") || kind == "CommaDelimitedList" {
			var list []any
			for part := range strings.SplitSeq(text(s.Parameters[p]), ",") {
				list = append(list, part)
			}
			s.Parameters[p] = list
		}
	}
	for c, body := range t.Sections["Conditions"] {
		s.conditions[c] = s.holds(body)
	}
	for r := range t.Sections["Resources"] {
		if s.exists(r) && t.Type(r) == stackType {
			s.nest(r)
		}
	}
	for r := range t.Sections["Resources"] {
		if !s.exists(r) {
			continue
		}
		body, _ := t.Resource(r)
		properties, _ := s.eval(body["Properties"]).(map[string]any)
		metadata, _ := body["Metadata"].(map[string]any)
		deletion, _ := body["DeletionPolicy"].(string)
		s.Resources[r] = Resource{Name: r, Type: t.Type(r), Properties: properties, Metadata: metadata, DeletionPolicy: deletion}
	}
	for o, body := range t.Sections["Outputs"] {
		m, _ := body.(map[string]any)
		s.Outputs[o] = s.eval(m["Value"])
	}
	return s
}

// All returns the stack and all below it, in order of their names.
func (s *Stack) All() []*Stack {
	all := []*Stack{s}
	for _, name := range slices.Sorted(maps.Keys(s.Nested)) {
		all = append(all, s.Nested[name].All()...)
	}
	return all
}

func (s *Stack) fail(format string, args ...any) {
	panic(failure{fmt.Errorf("%s: "+format, append([]any{s.Template.File}, args...)...)})
}

func (s *Stack) exists(resource string) bool {
	body, ok := s.Template.Resource(resource)
	if !ok {
		s.fail("there is no resource %s", resource)
	}
	c, _ := body["Condition"].(string)
	return c == "" || s.condition(c)
}

func (s *Stack) condition(name string) bool {
	if _, known := s.conditions[name]; !known {
		s.conditions[name] = s.holds(s.Template.Sections["Conditions"][name])
	}
	return s.conditions[name]
}

// nest evaluates a nested stack once, after those whose outputs it takes.
func (s *Stack) nest(resource string) *Stack {
	if n, ok := s.Nested[resource]; ok {
		if n == nil {
			s.fail("%s needs itself", resource)
		}
		return n
	}
	s.Nested[resource] = nil
	body, _ := s.Template.Resource(resource)
	properties, _ := body["Properties"].(map[string]any)
	parameters, _ := s.eval(properties["Parameters"]).(map[string]any)
	url, _ := properties["TemplateURL"].(string)
	s.Nested[resource] = newStack(resource, url, parameters, s.place, s.read)
	return s.Nested[resource]
}

func (s *Stack) holds(body any) bool {
	m, _ := body.(map[string]any)
	name, argument, ok := intrinsic(m)
	if !ok {
		s.fail("%v is no condition", body)
	}
	list, _ := argument.([]any)
	switch name {
	case "Condition":
		return s.condition(argument.(string))
	case "Fn::Equals":
		return text(s.eval(list[0])) == text(s.eval(list[1]))
	case "Fn::Not":
		return !s.holds(list[0])
	case "Fn::And":
		return !slices.ContainsFunc(list, func(c any) bool { return !s.holds(c) })
	case "Fn::Or":
		return slices.ContainsFunc(list, s.holds)
	}
	s.fail("%s is no condition", name)
	return false
}

// Refused returns the descriptions of the template's rules that are not met.
func (s *Stack) Refused() []string {
	var refused []string
	for _, rule := range s.Template.Sections["Rules"] {
		r, _ := rule.(map[string]any)
		assertions, _ := r["Assertions"].([]any)
		for _, a := range assertions {
			m, _ := a.(map[string]any)
			if !s.holds(m["Assert"]) {
				refused = append(refused, text(m["AssertDescription"]))
			}
		}
	}
	return refused
}

func (s *Stack) eval(value any) any {
	switch v := value.(type) {
	case []any:
		list := []any{}
		for _, item := range v {
			if e := s.eval(item); e != noValue {
				list = append(list, e)
			}
		}
		return list
	case map[string]any:
		if name, argument, ok := intrinsic(v); ok {
			return s.call(name, argument)
		}
		m := map[string]any{}
		for key, item := range v {
			if e := s.eval(item); e != noValue {
				m[key] = e
			}
		}
		return m
	default:
		return value
	}
}

func (s *Stack) call(name string, argument any) any {
	list, _ := argument.([]any)
	switch name {
	case "Ref":
		return s.ref(argument.(string))
	case "Fn::GetAtt":
		return s.attribute(list[0].(string), list[1].(string))
	case "Fn::Sub":
		return s.sub(argument)
	case "Fn::If":
		if s.condition(list[0].(string)) {
			return s.eval(list[1])
		}
		return s.eval(list[2])
	case "Fn::Join":
		var parts []string
		for _, p := range s.eval(list[1]).([]any) {
			parts = append(parts, text(p))
		}
		return strings.Join(parts, list[0].(string))
	case "Fn::Select":
		items := s.eval(list[1]).([]any)
		i, err := strconv.Atoi(text(s.eval(list[0])))
		if err != nil || i >= len(items) {
			s.fail("Select has no item %v", list[0])
		}
		return items[i]
	case "Fn::FindInMap":
		rows, _ := s.Template.Sections["Mappings"][list[0].(string)].(map[string]any)
		row, _ := rows[text(s.eval(list[1]))].(map[string]any)
		found, ok := row[text(s.eval(list[2]))]
		if !ok {
			s.fail("the mapping %v has nothing at %v", list[0], list[1:])
		}
		return found
	case "Fn::GetAZs":
		return []any{s.place.Region + "a", s.place.Region + "b", s.place.Region + "c"}
	case "Fn::Cidr":
		count, err := strconv.Atoi(text(s.eval(list[1])))
		if err != nil {
			s.fail("Cidr takes a number: %v", list[1])
		}
		var blocks []any
		for i := range count {
			blocks = append(blocks, fmt.Sprintf("%v#%d", s.eval(list[0]), i))
		}
		return blocks
	}
	s.fail("the function %s is not known", name)
	return nil
}

func (s *Stack) sub(argument any) any {
	format, own := "", map[string]any{}
	switch a := argument.(type) {
	case string:
		format = a
	case []any:
		format = a[0].(string)
		own, _ = s.eval(a[1]).(map[string]any)
	}
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(format, "${")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		name, after, _ := strings.Cut(rest, "}")
		format = after
		resource, attr, dotted := strings.Cut(name, ".")
		switch literal, isLiteral := strings.CutPrefix(name, "!"); {
		case isLiteral:
			out.WriteString("${" + literal + "}")
		case own[name] != nil:
			out.WriteString(text(own[name]))
		case dotted:
			out.WriteString(text(s.attribute(resource, attr)))
		default:
			out.WriteString(text(s.ref(name)))
		}
	}
}

func (s *Stack) ref(name string) any {
	switch name {
	case "AWS::AccountId":
		return s.place.Account
	case "AWS::Region":
		return s.place.Region
	}
	if value, ok := pseudo[name]; ok {
		return value
	}
	if value, ok := s.Parameters[name]; ok {
		return value
	}
	if !s.exists(name) {
		s.fail("%s is referred to, and its condition does not hold", name)
	}
	switch s.Template.Type(name) {
	// Those whose Ref is the ARN.
	case "AWS::SecretsManager::Secret", "AWS::SNS::Topic", "AWS::ElasticLoadBalancingV2::LoadBalancer",
		"AWS::ElasticLoadBalancingV2::TargetGroup", "AWS::ElasticLoadBalancingV2::Listener", "AWS::ECS::TaskDefinition", stackType:
		return s.arn(name)
	case "AWS::ECS::Service":
		return s.arn(name)
	}
	return s.physical(name)
}

// names are the properties in which a resource's own name stands.
var names = map[string]string{
	"AWS::DynamoDB::Table": "TableName", "AWS::S3::Bucket": "BucketName", "AWS::SQS::Queue": "QueueName", "AWS::IAM::Role": "RoleName",
	"AWS::Lambda::Function": "FunctionName", "AWS::Logs::LogGroup": "LogGroupName", "AWS::Events::Rule": "Name", "AWS::SNS::Topic": "TopicName",
	"AWS::SecretsManager::Secret": "Name", "AWS::ECS::Cluster": "ClusterName", "AWS::ECS::Service": "ServiceName", "AWS::DAX::Cluster": "ClusterName",
	"AWS::ServiceDiscovery::Service": "Name", "AWS::Cognito::UserPoolDomain": "Domain", "AWS::ApiGateway::Stage": "StageName",
	"AWS::CloudTrail::Trail": "TrailName", "AWS::KMS::Alias": "AliasName", "AWS::ECR::Repository": "RepositoryName",
}

// Physical returns the name that a resource gets, where its template gives it one.
func (s *Stack) Physical(resource string) (string, bool) {
	body, _ := s.Template.Resource(resource)
	properties, _ := body["Properties"].(map[string]any)
	property, known := names[s.Template.Type(resource)]
	if !known || properties[property] == nil {
		return "", false
	}
	return text(s.eval(properties[property])), true
}

// physical returns what AWS would call a resource: its name, if it has one here,
// or else something made of its logical one.
func (s *Stack) physical(name string) string {
	if own, ok := s.Physical(name); ok {
		return own
	}
	return s.Name + "-" + name
}

// arn returns the ARN that a resource would have.
func (s *Stack) arn(name string) string {
	where := s.place.Region + ":" + s.place.Account + ":"
	id := s.physical(name)
	switch s.Template.Type(name) {
	case "AWS::DynamoDB::Table":
		return "arn:aws:dynamodb:" + where + "table/" + id
	case "AWS::S3::Bucket":
		return "arn:aws:s3:::" + id
	case "AWS::SQS::Queue":
		return "arn:aws:sqs:" + where + id
	case "AWS::IAM::Role":
		return "arn:aws:iam::" + s.place.Account + ":role/" + id
	case "AWS::KMS::Key":
		return "arn:aws:kms:" + where + "key/" + id
	case "AWS::Lambda::Function":
		return "arn:aws:lambda:" + where + "function:" + id
	case "AWS::Logs::LogGroup":
		return "arn:aws:logs:" + where + "log-group:" + id + ":*"
	case "AWS::SecretsManager::Secret":
		return "arn:aws:secretsmanager:" + where + "secret:" + id + "-AbCdEf"
	case "AWS::Events::Rule":
		return "arn:aws:events:" + where + "rule/" + id
	case "AWS::SNS::Topic":
		return "arn:aws:sns:" + where + id
	case "AWS::DAX::Cluster":
		return "arn:aws:dax:" + where + "cache/" + id
	case "AWS::Cognito::UserPool":
		return "arn:aws:cognito-idp:" + where + "userpool/" + id
	case "AWS::ECS::Cluster":
		return "arn:aws:ecs:" + where + "cluster/" + id
	}
	parts := strings.Split(s.Template.Type(name), "::")
	return "arn:aws:" + strings.ToLower(parts[1]) + ":" + where + strings.ToLower(parts[2]) + "/" + id
}

func (s *Stack) attribute(name, attr string) any {
	if !s.exists(name) {
		s.fail("%s.%s is asked for, and its condition does not hold", name, attr)
	}
	if s.Template.Type(name) == stackType {
		output := strings.TrimPrefix(attr, "Outputs.")
		value, ok := s.nest(name).Outputs[output]
		if !ok {
			s.fail("%s has no output %s", name, output)
		}
		return value
	}
	switch attr {
	case "Arn":
		return s.arn(name)
	case "StreamArn":
		return s.arn(name) + "/stream/2026-01-01T00:00:00.000"
	case "Name", "QueueName":
		return s.physical(name)
	}
	return s.physical(name) + "." + attr
}

// text is how a value stands in a text.
func text(value any) string {
	if list, ok := value.([]any); ok {
		var parts []string
		for _, v := range list {
			parts = append(parts, text(v))
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(value)
}
