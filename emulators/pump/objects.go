package pump

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/tagstore/tagstore/core/storemap"
)

// object is the latest version of one.
type object struct {
	version string
	marker  bool
	etag    string
	size    int64
}

type objects struct {
	pump   *Pump
	store  storemap.Store
	client *s3.Client
}

func (p *Pump) objects(s storemap.Store) watcher {
	client := s3.NewFromConfig(p.o.AWS, func(o *s3.Options) { o.UsePathStyle = true })
	w := &objects{pump: p, store: s, client: client}
	return &things[object]{backend: s.Backend, page: w.page, changed: w.changed, gone: w.gone}
}

func (w *objects) page(ctx context.Context, more func(int) error) (map[string]object, error) {
	found := map[string]object{}
	pages := s3.NewListObjectVersionsPaginator(w.client, &s3.ListObjectVersionsInput{Bucket: &w.store.Container, Prefix: aws.String(w.store.Root())})
	for seen := 0; pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, v := range page.Versions {
			if aws.ToBool(v.IsLatest) {
				found[aws.ToString(v.Key)] = object{version: aws.ToString(v.VersionId), etag: aws.ToString(v.ETag), size: aws.ToInt64(v.Size)}
			}
		}
		for _, m := range page.DeleteMarkers {
			if aws.ToBool(m.IsLatest) {
				found[aws.ToString(m.Key)] = object{version: aws.ToString(m.VersionId), marker: true}
			}
		}
		seen += len(page.Versions) + len(page.DeleteMarkers)
		if err := more(seen); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (w *objects) changed(key string, was, is object) {
	switch {
	case !is.marker:
		w.send("Object Created", key, is, map[string]any{"reason": "PutObject"})
	case was != (object{}) && !was.marker:
		w.send("Object Deleted", key, is, map[string]any{"reason": "DeleteObject", "deletion-type": "Delete Marker Created"})
	}
}

func (w *objects) gone(key string, was object) {
	if !was.marker {
		w.send("Object Deleted", key, was, map[string]any{"reason": "DeleteObject", "deletion-type": "Permanently Deleted"})
	}
}

func (w *objects) send(detailType, key string, o object, detail map[string]any) {
	about := map[string]any{"key": key, "version-id": o.version, "sequencer": fmt.Sprintf("%016X", time.Now().UnixNano())}
	if !o.marker {
		about["size"], about["etag"] = o.size, strings.Trim(o.etag, `"`)
	}
	detail["version"], detail["bucket"], detail["object"] = "0", map[string]any{"name": w.store.Container}, about
	detail["requester"], detail["source-ip-address"] = account, "127.0.0.1"
	w.pump.send(storemap.Objects, key, "aws.s3", detailType, []string{"arn:aws:s3:::" + w.store.Container}, detail)
}
