package cloudformation

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// withArtifacts returns the stacks of s, and that of artifacts.yaml.
func withArtifacts(t *testing.T, s *Stack) *Stack {
	t.Helper()
	artifacts, err := New("artifacts.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	both := &Stack{Nested: map[string]*Stack{"main": s, "artifacts": artifacts}, Template: &Template{}}
	return both
}

// Every queue has an alarm on what lies in it, is encrypted, and keeps what
// failed for as long as a queue can.
func TestQueuesHaveAlarms(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		watched := map[string]bool{}
		resources(s, "AWS::CloudWatch::Alarm", func(_ *Stack, r Resource) {
			if r.Properties["MetricName"] == "ApproximateNumberOfMessagesVisible" && text(r.Properties["Threshold"]) == "1" {
				d := r.Properties["Dimensions"].([]any)
				watched[text(at(d[0], "Value"))] = true
			}
		})
		n := resources(s, "AWS::SQS::Queue", func(_ *Stack, r Resource) {
			if name := text(r.Properties["QueueName"]); !watched[name] {
				t.Errorf("nobody is told that something is in %s", name)
			}
			if r.Properties["SqsManagedSseEnabled"] != true || text(r.Properties["MessageRetentionPeriod"]) != "1209600" {
				t.Errorf("%s: %v", r.Name, r.Properties)
			}
		})
		if n != len(watched) || n < 4 {
			t.Errorf("%d queues, alarms on %v", n, slices.Sorted(maps.Keys(watched)))
		}
	})
}

// Every group of logs ends some day and is encrypted, and nothing logs to a group
// that is not among them.
func TestLogGroupsEnd(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		groups := map[string]bool{}
		resources(s, "AWS::Logs::LogGroup", func(_ *Stack, r Resource) {
			groups[text(r.Properties["LogGroupName"])] = true
			days, err := strconv.Atoi(text(r.Properties["RetentionInDays"]))
			if err != nil || days < 1 || days > 400 {
				t.Errorf("%s is kept for %v days", r.Name, r.Properties["RetentionInDays"])
			}
			if !strings.HasPrefix(text(r.Properties["KmsKeyId"]), keyARN) {
				t.Errorf("%s is not encrypted: %v", r.Name, r.Properties["KmsKeyId"])
			}
		})
		containers(s, func(_ Resource, name string, c map[string]any) {
			if group := text(at(c, "LogConfiguration", "Options", "awslogs-group")); !groups[group] {
				t.Errorf("%s logs to %s", name, group)
			}
			if at(c, "LogConfiguration", "Options", "awslogs-create-group") != nil {
				t.Errorf("%s makes a group that never ends", name)
			}
		})
		resources(s, "AWS::Lambda::Function", func(_ *Stack, r Resource) {
			if group := text(at(r.Properties, "LoggingConfig", "LogGroup")); !groups[group] {
				t.Errorf("%s logs to %s", r.Name, group)
			}
		})
		if len(groups) < 8 {
			t.Errorf("groups: %v", slices.Sorted(maps.Keys(groups)))
		}
	})
}

// What is kept is encrypted, with keys of the stack that are turned each year;
// what is on its way is, but for the last step behind the load balancer.
func TestEncryption(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		own := func(r Resource, path ...string) {
			if key := text(at(r.Properties, path...)); !strings.HasPrefix(key, keyARN) {
				t.Errorf("%s is encrypted with %q", r.Name, key)
			}
		}
		all := withArtifacts(t, s)
		seen := map[string]bool{}
		for _, stack := range all.All() {
			for _, r := range stack.Resources {
				seen[r.Type] = true
				switch r.Type {
				case "AWS::KMS::Key":
					if r.Properties["EnableKeyRotation"] != true {
						t.Errorf("%s is never turned", r.Name)
					}
				case "AWS::DynamoDB::Table":
					own(r, "SSESpecification", "KMSMasterKeyId")
					if at(r.Properties, "SSESpecification", "SSEEnabled") != true || at(r.Properties, "SSESpecification", "SSEType") != "KMS" {
						t.Errorf("%s: %v", r.Name, r.Properties["SSESpecification"])
					}
				case "AWS::S3::Bucket":
					rules, _ := at(r.Properties, "BucketEncryption", "ServerSideEncryptionConfiguration").([]any)
					if len(rules) != 1 || r.Name != "TrailBucket" && !strings.HasPrefix(text(at(rules[0], "ServerSideEncryptionByDefault", "KMSMasterKeyID")), keyARN) {
						t.Errorf("%s: %v", r.Name, rules)
					}
					for _, block := range []string{"BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"} {
						if at(r.Properties, "PublicAccessBlockConfiguration", block) != true {
							t.Errorf("%s: %s is off", r.Name, block)
						}
					}
					tlsOnly := 0
					for _, p := range stack.Resources {
						if p.Type == "AWS::S3::BucketPolicy" && p.Properties["Bucket"] == text(r.Properties["BucketName"]) {
							statements, err := Statements(p.Properties["PolicyDocument"])
							if err != nil {
								t.Fatal(err)
							}
							for _, st := range statements {
								if st.Effect == "Deny" && st.Principals["*"] != nil && slices.Equal(st.Condition["Bool"]["aws:SecureTransport"], []string{"false"}) && len(st.Resources) == 2 {
									tlsOnly++
								}
							}
						}
					}
					if tlsOnly != 1 {
						t.Errorf("%s can be read without TLS", r.Name)
					}
				case "AWS::SecretsManager::Secret":
					own(r, "KmsKeyId")
				case "AWS::Lambda::Function":
					own(r, "KmsKeyArn")
				case "AWS::SNS::Topic":
					own(r, "KmsMasterKeyId")
				case "AWS::ECR::Repository":
					own(r, "EncryptionConfiguration", "KmsKey")
				case "AWS::DAX::Cluster":
					if r.Properties["ClusterEndpointEncryptionType"] != "TLS" || at(r.Properties, "SSESpecification", "SSEEnabled") != true {
						t.Errorf("%s: %v", r.Name, r.Properties)
					}
				case "AWS::ElasticLoadBalancingV2::Listener":
					if r.Properties["Protocol"] != "HTTPS" || !strings.HasPrefix(text(r.Properties["SslPolicy"]), "ELBSecurityPolicy-TLS13-1-2-") {
						t.Errorf("%s: %v", r.Name, r.Properties)
					}
				case "AWS::ApiGateway::Method":
					if !strings.HasPrefix(text(at(r.Properties, "Integration", "Uri")), "https://") {
						t.Errorf("%s: %v", r.Name, at(r.Properties, "Integration", "Uri"))
					}
				case "AWS::ElastiCache::ReplicationGroup", "AWS::EFS::FileSystem", "AWS::RDS::DBInstance", "AWS::Kinesis::Stream":
					t.Errorf("%s: say how %s is encrypted", r.Name, r.Type)
				}
			}
		}
		for _, must := range []string{"AWS::KMS::Key", "AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::SecretsManager::Secret", "AWS::ElasticLoadBalancingV2::Listener"} {
			if !seen[must] {
				t.Errorf("no %s was seen", must)
			}
		}
	})
}

// What holds data outlives its stack, can be had back, and in production can not
// be deleted in passing.
func TestDataIsKept(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		prod := s.Parameters["Environment"] == "prod"
		for _, stack := range withArtifacts(t, s).All() {
			for _, r := range stack.Resources {
				switch r.Type {
				case "AWS::DynamoDB::Table":
					if at(r.Properties, "PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled") != true || r.Properties["DeletionProtectionEnabled"] != prod || r.DeletionPolicy != "Retain" {
						t.Errorf("%s: %v, %s", r.Name, r.Properties, r.DeletionPolicy)
					}
					if r.Name == "ConfigTable" && (at(r.Properties, "StreamSpecification", "StreamViewType") != "KEYS_ONLY" || at(r.Properties, "TimeToLiveSpecification", "AttributeName") != "expiresAt") {
						t.Errorf("%s: %v", r.Name, r.Properties)
					}
					// A secondary index on another attribute would be a way around the tenants' role.
					if r.Properties["GlobalSecondaryIndexes"] != nil || r.Properties["LocalSecondaryIndexes"] != nil {
						t.Errorf("%s has an index", r.Name)
					}
				case "AWS::S3::Bucket":
					if at(r.Properties, "VersioningConfiguration", "Status") != "Enabled" || r.DeletionPolicy != "Retain" {
						t.Errorf("%s: %v, %s", r.Name, r.Properties["VersioningConfiguration"], r.DeletionPolicy)
					}
					if r.Name == "ConfigBucket" && at(r.Properties, "NotificationConfiguration", "EventBridgeConfiguration", "EventBridgeEnabled") != true {
						t.Errorf("%s tells nobody of changes", r.Name)
					}
				case "AWS::Cognito::UserPool":
					if want := map[bool]string{true: "ACTIVE", false: "INACTIVE"}[prod]; r.Properties["DeletionProtection"] != want || r.DeletionPolicy != "Retain" {
						t.Errorf("%s: %v", r.Name, r.Properties["DeletionProtection"])
					}
				case "AWS::KMS::Key":
					if r.Name != "LogsKey" && r.DeletionPolicy != "Retain" {
						t.Errorf("%s goes before what it encrypts", r.Name)
					}
				case "AWS::SecretsManager::Secret":
					// Base64 of 32 bytes or more is what both programs ask of such a key.
					if g := r.Properties["GenerateSecretString"]; g != nil {
						length, _ := strconv.Atoi(text(at(g, "PasswordLength")))
						if length%4 != 0 || length < 44 || at(g, "ExcludePunctuation") != true || at(g, "IncludeSpace") != false {
							t.Errorf("%s: %v is no base64 of 32 bytes", r.Name, g)
						}
					}
				}
			}
		}
	})
}

// A container is nobody, can write nowhere but to its sockets, has no capability
// and no shell is opened in it.
func TestContainersAreClosed(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		containers(s, func(task Resource, name string, c map[string]any) {
			drop, _ := at(c, "LinuxParameters", "Capabilities", "Drop").([]any)
			if c["User"] != "65532:65532" || c["ReadonlyRootFilesystem"] != true || len(drop) != 1 || drop[0] != "ALL" || c["Privileged"] == true {
				t.Errorf("%s: %v %v %v", name, c["User"], c["ReadonlyRootFilesystem"], drop)
			}
			mounts, _ := c["MountPoints"].([]any)
			values, _ := environment(t, c)
			for _, m := range mounts {
				if path := text(at(m, "ContainerPath")); path != values["TAGSTORE_SOCKET_DIR"] {
					t.Errorf("%s can write to %s", name, path)
				}
			}
			if values["TAGSTORE_SOCKET_DIR"] != "" && len(mounts) != 1 {
				t.Errorf("%s can not write to its folder of sockets", name)
			}
			if task.Properties["NetworkMode"] != "awsvpc" {
				t.Errorf("%s: %v", task.Name, task.Properties["NetworkMode"])
			}
		})
		n := resources(s, "AWS::ECS::Service", func(_ *Stack, r Resource) {
			d := r.Properties["DeploymentConfiguration"]
			if r.Properties["EnableExecuteCommand"] != false || at(r.Properties, "NetworkConfiguration", "AwsvpcConfiguration", "AssignPublicIp") != "DISABLED" ||
				at(d, "DeploymentCircuitBreaker", "Enable") != true || at(d, "DeploymentCircuitBreaker", "Rollback") != true || text(at(d, "MinimumHealthyPercent")) != "100" {
				t.Errorf("%s: %v", r.Name, r.Properties)
			}
		})
		scaling := map[string]int{}
		resources(s, "AWS::ApplicationAutoScaling::ScalingPolicy", func(_ *Stack, r Resource) {
			scaling[text(at(r.Properties, "TargetTrackingScalingPolicyConfiguration", "PredefinedMetricSpecification", "PredefinedMetricType"))]++
		})
		if n != 2 || scaling["ECSServiceAverageCPUUtilization"] != 2 || scaling["ALBRequestCountPerTarget"] != 2 {
			t.Errorf("%d services, scaled by %v", n, scaling)
		}
	})
}

// Nothing is open to the internet but the API: no rule of a group lets anybody
// in by address, and each way in has its way out.
func TestNetwork(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		type edge struct{ from, to, low, high string }
		in, out := map[edge]bool{}, map[edge]bool{}
		resources(s, "AWS::EC2::SecurityGroupIngress", func(_ *Stack, r Resource) {
			p := r.Properties
			if p["CidrIp"] != nil || p["CidrIpv6"] != nil || p["SourceSecurityGroupId"] == nil {
				t.Errorf("%s lets addresses in", r.Name)
			}
			in[edge{text(p["SourceSecurityGroupId"]), text(p["GroupId"]), text(p["FromPort"]), text(p["ToPort"])}] = true
		})
		resources(s, "AWS::EC2::SecurityGroupEgress", func(_ *Stack, r Resource) {
			p := r.Properties
			if p["CidrIp"] != nil {
				if text(p["FromPort"]) != "443" || text(p["ToPort"]) != "443" {
					t.Errorf("%s: %v", r.Name, p)
				}
				return
			}
			out[edge{text(p["GroupId"]), text(p["DestinationSecurityGroupId"]), text(p["FromPort"]), text(p["ToPort"])}] = true
		})
		if !maps.Equal(in, out) || len(in) < 10 {
			t.Errorf("in %v\nout %v", in, out)
		}
		resources(s, "AWS::EC2::SecurityGroup", func(_ *Stack, r Resource) {
			egress, _ := r.Properties["SecurityGroupEgress"].([]any)
			if r.Properties["SecurityGroupIngress"] != nil || len(egress) != 1 || at(egress[0], "CidrIp") != "127.0.0.1/32" {
				t.Errorf("%s: %v", r.Name, r.Properties)
			}
		})
		resources(s, "AWS::EC2::Subnet", func(_ *Stack, r Resource) {
			if r.Properties["MapPublicIpOnLaunch"] != false {
				t.Errorf("%s gives public addresses", r.Name)
			}
		})
		resources(s, "AWS::ElasticLoadBalancingV2::LoadBalancer", func(_ *Stack, r Resource) {
			if r.Properties["Scheme"] != "internal" {
				t.Errorf("%s: %v", r.Name, r.Properties["Scheme"])
			}
		})
	})
}

// Replicas are registered once, by ECS, with the port that whoever asks them needs.
func TestReplicasAreRegisteredOnce(t *testing.T) {
	each(t, nil, func(t *testing.T, s *Stack) {
		registered := 0
		resources(s, "AWS::ECS::Service", func(_ *Stack, r Resource) {
			for _, reg := range policiesOf(r.Properties["ServiceRegistries"]) {
				registered++
				if reg["ContainerName"] != "config" || text(reg["ContainerPort"]) != "7070" {
					t.Errorf("%v", reg)
				}
			}
		})
		containers(s, func(_ Resource, name string, c map[string]any) {
			if values, _ := environment(t, c); values["TAGSTORE_CLOUDMAP_REGISTER"] == "true" {
				registered++
			}
		})
		resources(s, "AWS::ServiceDiscovery::Service", func(_ *Stack, r Resource) {
			records, _ := at(r.Properties, "DnsConfig", "DnsRecords").([]any)
			if len(records) != 1 || at(records[0], "Type") != "SRV" || r.Properties["HealthCheckCustomConfig"] == nil {
				t.Errorf("%s: %v", r.Name, r.Properties)
			}
		})
		if registered != 1 {
			t.Errorf("registered %d times", registered)
		}
	})
}

// What the function could not do is kept: each way to it has a bound and a queue,
// and whoever puts into that queue may.
func TestNothingIsLostInSilence(t *testing.T) {
	readme, err := os.ReadFile("../refresh-lambda/README.md")
	if err != nil {
		t.Fatal(err)
	}
	each(t, nil, func(t *testing.T, s *Stack) {
		queues, own := map[string]string{}, map[string]int{}
		resources(s, "AWS::SQS::Queue", func(st *Stack, r Resource) { queues[st.arn(r.Name)] = text(r.Properties["QueueName"]) })
		policies := map[string][]Statement{}
		resources(s, "AWS::SQS::QueuePolicy", func(_ *Stack, r Resource) {
			statements, err := Statements(r.Properties["PolicyDocument"])
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range texts(r.Properties["Queues"]) {
				policies[q] = statements
			}
		})
		may := map[string]bool{}
		resources(s, "AWS::Lambda::Permission", func(_ *Stack, r Resource) { may[text(r.Properties["SourceArn"])] = true })
		rules := resources(s, "AWS::Events::Rule", func(st *Stack, r Resource) {
			rule := st.arn(r.Name)
			for _, target := range policiesOf(r.Properties["Targets"]) {
				queue := text(at(target, "DeadLetterConfig", "Arn"))
				own[queue]++
				context := map[string][]string{"aws:sourcearn": {rule}}
				if queues[queue] == "" || !Trusts(policies[queues[queue]], "Service", "events.amazonaws.com", Request{Action: "sqs:SendMessage", Resource: queue, Context: context}) {
					t.Errorf("%s: what is not delivered does not get to %q", r.Name, queue)
				}
				if Trusts(policies[queues[queue]], "Service", "events.amazonaws.com", Request{Action: "sqs:SendMessage", Resource: queue, Context: map[string][]string{"aws:sourcearn": {"arn:aws:events:eu-central-1:1:rule/x"}}}) {
					t.Errorf("any rule may put into %s", queue)
				}
				if strings.Contains(text(target["Arn"]), ":lambda:") && !may[rule] {
					t.Errorf("%s may not invoke the function", r.Name)
				}
			}
			// What is sent is what the function knows; more would be errors.
			if r.Name != "SpotInterruptions" {
				pattern := r.Properties["EventPattern"]
				said := slices.Concat(texts(at(pattern, "source")), texts(at(pattern, "detail-type")))
				for _, list := range []string{"eventName", "operation"} {
					if v := at(pattern, "detail", list); v != nil {
						said = append(said, texts(v)...)
					}
				}
				for _, word := range said {
					if !strings.Contains(string(readme), word) {
						t.Errorf("%s sends %s, which the function does not know", r.Name, word)
					}
				}
				encoded, err := json.Marshal(pattern)
				if err != nil || !strings.Contains(string(encoded), s.Parameters["Environment"].(string)) {
					t.Errorf("%s is not narrowed to this stack's names: %s", r.Name, encoded)
				}
			}
		})
		for queue, n := range own {
			if n != 1 {
				t.Errorf("%d rules share %s", n, queue)
			}
		}
		want := 2
		if hasS3(s) {
			want++
		}
		if hasSecrets(s) {
			want += 3
		}
		if rules != want {
			t.Errorf("%d rules, not %d", rules, want)
		}
		resources(s, "AWS::Lambda::Function", func(_ *Stack, r Resource) {
			if queues[text(at(r.Properties, "DeadLetterConfig", "TargetArn"))] == "" || r.Properties["Runtime"] != "provided.al2023" || r.Properties["Handler"] != "bootstrap" {
				t.Errorf("%s: %v", r.Name, r.Properties)
			}
			if want := text(s.Parameters["ReservedConcurrency"]); want != "0" && text(r.Properties["ReservedConcurrentExecutions"]) != want {
				t.Errorf("%s: reserved %v, not %s", r.Name, r.Properties["ReservedConcurrentExecutions"], want)
			}
		})
		invocations := resources(s, "AWS::Lambda::EventInvokeConfig", func(_ *Stack, r Resource) {
			if queues[text(at(r.Properties, "DestinationConfig", "OnFailure", "Destination"))] == "" || text(r.Properties["MaximumRetryAttempts"]) != "2" {
				t.Errorf("%s: %v", r.Name, r.Properties)
			}
		})
		streams := resources(s, "AWS::Lambda::EventSourceMapping", func(_ *Stack, r Resource) {
			p := r.Properties
			retries, _ := strconv.Atoi(text(p["MaximumRetryAttempts"]))
			age, _ := strconv.Atoi(text(p["MaximumRecordAgeInSeconds"]))
			if p["BisectBatchOnFunctionError"] != true || retries < 1 || age < 60 || !slices.Equal(texts(p["FunctionResponseTypes"]), []string{"ReportBatchItemFailures"}) ||
				queues[text(at(p, "DestinationConfig", "OnFailure", "Destination"))] == "" {
				t.Errorf("%s: %v", r.Name, p)
			}
		})
		if invocations != 1 || streams != 1 {
			t.Errorf("%d, %d", invocations, streams)
		}
	})
}

// The package of the pins names each by one exact version.
func TestLinterIsPinned(t *testing.T) {
	pins, err := os.ReadFile("requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	pin := regexp.MustCompile(`^[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*$`)
	found := false
	for line := range strings.Lines(string(pins)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		found = found || strings.HasPrefix(line, "cfn-lint==")
		if !pin.MatchString(line) {
			t.Errorf("%q is no exact version", line)
		}
	}
	if !found {
		t.Error("cfn-lint is not pinned")
	}
	// A check that is turned off says why, beside it.
	files, err := filepath.Glob("*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(content), "\n")
		for i, line := range lines {
			if strings.Contains(line, "ignore_checks") && !strings.HasPrefix(strings.TrimSpace(lines[i-1]), "#") {
				t.Errorf("%s:%d: a check is turned off without a reason", file, i+1)
			}
		}
	}
}
