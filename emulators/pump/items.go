package pump

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"

	"github.com/tagstore/tagstore/core/storemap"
	"github.com/tagstore/tagstore/emulators/lambdaruntime"
)

const (
	// batchSize is an event source mapping's default.
	batchSize = 100
	// shardsEvery is how often new shards are looked for.
	shardsEvery = 5 * time.Second
)

// items reads the stream of one table, as an event source mapping does.
type items struct {
	pump    *Pump
	store   storemap.Store
	tables  *dynamodb.Client
	streams *dynamodbstreams.Client

	stream string
	shards map[string]*shard
	listed time.Time
}

type shard struct {
	parent   string
	iterator *string // nil: to be had anew
	last     string  // the last sequence number that was delivered
	start    types.ShardIteratorType
	done     bool
}

func (p *Pump) items(s storemap.Store) watcher {
	return &items{
		pump: p, store: s, shards: map[string]*shard{},
		tables: dynamodb.NewFromConfig(p.o.AWS), streams: dynamodbstreams.NewFromConfig(p.o.AWS),
	}
}

func (w *items) prime(ctx context.Context) error {
	out, err := w.tables.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &w.store.Container})
	if err != nil {
		return fmt.Errorf("backend %s: %w", w.store.Backend, err)
	}
	if out.Table == nil || aws.ToString(out.Table.LatestStreamArn) == "" || out.Table.StreamSpecification == nil || !aws.ToBool(out.Table.StreamSpecification.StreamEnabled) {
		return fmt.Errorf("backend %s: the table %s has no stream: enable one with StreamViewType NEW_IMAGE", w.store.Backend, w.store.Container)
	}
	w.stream = *out.Table.LatestStreamArn
	if err := w.list(ctx, types.ShardIteratorTypeLatest); err != nil {
		return err
	}
	for id, s := range w.shards {
		if err := w.iterate(ctx, id, s); err != nil {
			return err
		}
	}
	return nil
}

// list adds the shards that are not known.
func (w *items) list(ctx context.Context, start types.ShardIteratorType) error {
	in := &dynamodbstreams.DescribeStreamInput{StreamArn: &w.stream}
	for {
		out, err := w.streams.DescribeStream(ctx, in)
		if err != nil {
			return fmt.Errorf("backend %s: %w", w.store.Backend, err)
		}
		for _, s := range out.StreamDescription.Shards {
			if id := aws.ToString(s.ShardId); w.shards[id] == nil {
				closed := s.SequenceNumberRange != nil && s.SequenceNumberRange.EndingSequenceNumber != nil
				w.shards[id] = &shard{parent: aws.ToString(s.ParentShardId), start: start, done: closed && start == types.ShardIteratorTypeLatest}
			}
		}
		if in.ExclusiveStartShardId = out.StreamDescription.LastEvaluatedShardId; in.ExclusiveStartShardId == nil {
			w.listed = time.Now()
			return nil
		}
	}
}

func (w *items) iterate(ctx context.Context, id string, s *shard) error {
	if s.done || s.iterator != nil {
		return nil
	}
	in := &dynamodbstreams.GetShardIteratorInput{StreamArn: &w.stream, ShardId: &id, ShardIteratorType: s.start}
	if s.last != "" {
		in.ShardIteratorType, in.SequenceNumber = types.ShardIteratorTypeAfterSequenceNumber, &s.last
	}
	out, err := w.streams.GetShardIterator(ctx, in)
	if err != nil {
		return fmt.Errorf("backend %s: %w", w.store.Backend, err)
	}
	s.iterator = out.ShardIterator
	return nil
}

// look reads every shard once. A shard waits for the one that it came of.
func (w *items) look(ctx context.Context) error {
	if time.Since(w.listed) > shardsEvery {
		if err := w.list(ctx, types.ShardIteratorTypeTrimHorizon); err != nil {
			return err
		}
	}
	var errs []error
	for id, s := range w.shards {
		if parent := w.shards[s.parent]; s.done || parent != nil && !parent.done {
			continue
		}
		errs = append(errs, w.read(ctx, id, s))
	}
	return errors.Join(errs...)
}

func (w *items) read(ctx context.Context, id string, s *shard) error {
	if err := w.iterate(ctx, id, s); err != nil {
		return err
	}
	out, err := w.streams.GetRecords(ctx, &dynamodbstreams.GetRecordsInput{ShardIterator: s.iterator, Limit: aws.Int32(batchSize)})
	if err != nil {
		s.iterator = nil // it may have expired
		return fmt.Errorf("backend %s: %w", w.store.Backend, err)
	}
	var records []lambdaruntime.Record
	for _, r := range out.Records {
		name := text(r.Dynamodb.Keys["pk"]) + " " + text(r.Dynamodb.Keys["sk"])
		if w.pump.o.Drop(storemap.Items, name) {
			w.pump.o.Logger.Info("an event was dropped on purpose", slog.String("name", name))
			continue
		}
		data, err := json.Marshal(w.record(r))
		if err != nil {
			return err
		}
		records = append(records, lambdaruntime.Record{Sequence: aws.ToString(r.Dynamodb.SequenceNumber), Data: data})
	}
	if len(records) > 0 {
		switch err := w.pump.o.Target.Deliver(ctx, w.pump.o.Mapping, records); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil: // it was given up, and the shard goes on
			w.pump.o.Logger.Error("a batch was lost", slog.String("backend", w.store.Backend), slog.String("error", err.Error()))
		}
	}
	if n := len(out.Records); n > 0 {
		s.last = aws.ToString(out.Records[n-1].Dynamodb.SequenceNumber)
	}
	if s.iterator = out.NextShardIterator; s.iterator == nil {
		s.done, w.listed = true, time.Time{}
	}
	return nil
}

// record is a record as Lambda hands it to a function.
func (w *items) record(r types.Record) map[string]any {
	change := map[string]any{
		"Keys": values(r.Dynamodb.Keys), "SequenceNumber": aws.ToString(r.Dynamodb.SequenceNumber),
		"SizeBytes": aws.ToInt64(r.Dynamodb.SizeBytes), "StreamViewType": string(r.Dynamodb.StreamViewType),
	}
	if at := r.Dynamodb.ApproximateCreationDateTime; at != nil {
		change["ApproximateCreationDateTime"] = at.Unix()
	}
	for name, image := range map[string]map[string]types.AttributeValue{"NewImage": r.Dynamodb.NewImage, "OldImage": r.Dynamodb.OldImage} {
		if len(image) > 0 {
			change[name] = values(image)
		}
	}
	all := map[string]any{
		"eventID": aws.ToString(r.EventID), "eventName": string(r.EventName), "eventVersion": "1.1", "eventSource": "aws:dynamodb",
		"awsRegion": w.pump.o.AWS.Region, "dynamodb": change, "eventSourceARN": w.stream,
	}
	if r.UserIdentity != nil {
		all["userIdentity"] = map[string]any{"type": aws.ToString(r.UserIdentity.Type), "principalId": aws.ToString(r.UserIdentity.PrincipalId)}
	}
	return all
}

func text(a types.AttributeValue) string {
	if s, ok := a.(*types.AttributeValueMemberS); ok {
		return s.Value
	}
	return ""
}

func values(attributes map[string]types.AttributeValue) map[string]any {
	all := make(map[string]any, len(attributes))
	for name, a := range attributes {
		all[name] = value(a)
	}
	return all
}

// value writes an attribute as DynamoDB's own JSON has it. encoding/json writes
// bytes in base64, as that does.
func value(a types.AttributeValue) map[string]any {
	switch a := a.(type) {
	case *types.AttributeValueMemberS:
		return map[string]any{"S": a.Value}
	case *types.AttributeValueMemberN:
		return map[string]any{"N": a.Value}
	case *types.AttributeValueMemberB:
		return map[string]any{"B": a.Value}
	case *types.AttributeValueMemberBOOL:
		return map[string]any{"BOOL": a.Value}
	case *types.AttributeValueMemberSS:
		return map[string]any{"SS": a.Value}
	case *types.AttributeValueMemberNS:
		return map[string]any{"NS": a.Value}
	case *types.AttributeValueMemberBS:
		return map[string]any{"BS": a.Value}
	case *types.AttributeValueMemberM:
		return map[string]any{"M": values(a.Value)}
	case *types.AttributeValueMemberL:
		list := make([]map[string]any, len(a.Value))
		for i, item := range a.Value {
			list[i] = value(item)
		}
		return map[string]any{"L": list}
	default:
		return map[string]any{"NULL": true}
	}
}
