package pump

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/tagstore/tagstore/core/storemap"
)

// parameter is what tells one state of a parameter from another.
type parameter struct {
	version  int64
	modified int64
	kind     string
}

type parameters struct {
	pump   *Pump
	store  storemap.Store
	client *ssm.Client
}

func (p *Pump) parameters(s storemap.Store) watcher {
	w := &parameters{pump: p, store: s, client: ssm.NewFromConfig(p.o.AWS)}
	return &things[parameter]{backend: s.Backend, page: w.page, changed: w.changed, gone: w.gone}
}

func (w *parameters) page(ctx context.Context, more func(int) error) (map[string]parameter, error) {
	root := strings.TrimSuffix(w.store.Root(), "/")
	if root == "" {
		root = "/"
	}
	found := map[string]parameter{}
	pages := ssm.NewGetParametersByPathPaginator(w.client, &ssm.GetParametersByPathInput{Path: &root, Recursive: aws.Bool(true)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, q := range page.Parameters {
			found[aws.ToString(q.Name)] = parameter{version: q.Version, modified: aws.ToTime(q.LastModifiedDate).UnixNano(), kind: string(q.Type)}
		}
		if err := more(len(found)); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (w *parameters) changed(name string, was, is parameter) {
	operation := "Update"
	if was == (parameter{}) {
		operation = "Create"
	}
	w.send(operation, name, is)
}

func (w *parameters) gone(name string, was parameter) { w.send("Delete", name, was) }

func (w *parameters) send(operation, name string, q parameter) {
	arn := fmt.Sprintf("arn:aws:ssm:%s:%s:parameter%s", w.pump.o.AWS.Region, account, name)
	w.pump.send(storemap.Parameters, name, "aws.ssm", "Parameter Store Change", []string{arn},
		map[string]any{"operation": operation, "name": name, "type": q.kind})
}
