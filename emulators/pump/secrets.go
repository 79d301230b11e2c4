package pump

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/tagstore/tagstore/core/storemap"
)

type secret struct {
	arn     string
	current string // the version with AWSCURRENT
	deleted bool
}

type secrets struct {
	pump   *Pump
	store  storemap.Store
	client *secretsmanager.Client
}

func (p *Pump) secrets(s storemap.Store) watcher {
	w := &secrets{pump: p, store: s, client: secretsmanager.NewFromConfig(p.o.AWS)}
	return &things[secret]{backend: s.Backend, page: w.page, changed: w.changed, gone: w.gone}
}

func (w *secrets) page(ctx context.Context, more func(int) error) (map[string]secret, error) {
	in := &secretsmanager.ListSecretsInput{MaxResults: aws.Int32(100), IncludePlannedDeletion: aws.Bool(true)}
	if root := w.store.Root(); root != "" {
		in.Filters = []types.Filter{{Key: types.FilterNameStringTypeName, Values: []string{root}}}
	}
	found := map[string]secret{}
	pages := secretsmanager.NewListSecretsPaginator(w.client, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range page.SecretList {
			is := secret{arn: aws.ToString(s.ARN), deleted: s.DeletedDate != nil}
			for version, stages := range s.SecretVersionsToStages {
				if slices.Contains(stages, "AWSCURRENT") {
					is.current = version
				}
			}
			found[aws.ToString(s.Name)] = is
		}
		if err := more(len(found)); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (w *secrets) changed(name string, was, is secret) {
	switch {
	case is.deleted && !was.deleted && was.arn != "":
		w.call("DeleteSecret", name, is)
	case is.deleted: // it was before
	case was.deleted && was.arn == is.arn:
		w.call("RestoreSecret", name, is)
	default:
		w.label(name, is)
	}
}

func (w *secrets) gone(name string, was secret) {
	if !was.deleted {
		w.call("DeleteSecret", name, was)
	}
}

// label is the event of a new current version.
func (w *secrets) label(name string, s secret) {
	w.pump.send(storemap.Secrets, name, "aws.secretsmanager", "Secret Label Updated", []string{s.arn},
		map[string]any{"name": name, "labelUpdated": "AWSCURRENT", "versionId": s.current})
}

// call is CloudTrail's event of a call, which is all that AWS sends of deletions.
func (w *secrets) call(operation, name string, s secret) {
	w.pump.send(storemap.Secrets, name, "aws.secretsmanager", "AWS API Call via CloudTrail", []string{}, map[string]any{
		"eventVersion": "1.08", "eventSource": "secretsmanager.amazonaws.com", "eventName": operation, "awsRegion": w.pump.o.AWS.Region,
		"requestParameters": map[string]any{"secretId": s.arn}, "responseElements": map[string]any{"arn": s.arn, "name": name},
		"eventType": "AwsApiCall",
	})
}
