package daxtest

import (
	"encoding/json"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// selectCount is the one selection that changes what is answered: the client
// sends "all attributes" whenever nothing was asked for.
const selectCount = 3

// page is what Query and Scan have in common.
type page struct {
	table   string
	schema  schema
	opt     options
	index   *string
	paths   []path
	filter  *string
	start   Item
	limit   *int32
	count   bool
	strong  bool
	express expression
}

func (s *Server) page(args []any) (*page, error) {
	table, err := tableOf(args[0])
	if err != nil {
		return nil, err
	}
	p := &page{table: table}
	if p.schema, err = s.schema(requestOf(args), table); err != nil {
		return nil, err
	}
	if p.opt, err = optionsOf(args[len(args)-2]); err != nil {
		return nil, err
	}
	if p.paths, err = projection(p.opt[optProjection]); err != nil {
		return nil, err
	}
	if p.filter, err = p.express.condition(p.opt[optFilter]); err != nil {
		return nil, err
	}
	if name, is := p.opt[optIndex].([]byte); is {
		index := string(name)
		p.index = &index
	}
	if raw, is := p.opt[optStartKey].([]byte); is {
		if p.start, err = p.lastKey(raw); err != nil {
			return nil, err
		}
	}
	if n, is := p.opt.number(optLimit); is {
		p.limit = &n
	}
	n, _ := p.opt.number(optSelect)
	p.count, p.strong = n == selectCount, p.opt.flag(optConsistentRead)
	return p, nil
}

// lastKey is where a page starts: a key of the table or, of an index, a map of
// all attributes that its position has.
func (p *page) lastKey(raw []byte) (Item, error) {
	if p.index == nil {
		return p.schema.decode(raw)
	}
	all, err := items(raw)
	if err != nil {
		return nil, err
	}
	v, err := attribute(all[0])
	if err != nil {
		return nil, err
	}
	m, err := as[*types.AttributeValueMemberM](v, "an index's key")
	if err != nil {
		return nil, err
	}
	return m.Value, nil
}

func (p *page) selection() types.Select {
	if p.count {
		return types.SelectCount
	}
	return ""
}

func (s *Server) query(args []any) ([]byte, error) {
	p, err := s.page(args)
	if err != nil {
		return nil, err
	}
	condition, err := p.express.condition(args[1])
	if err != nil {
		return nil, err
	}
	in := &dynamodb.QueryInput{
		TableName: &p.table, IndexName: p.index, KeyConditionExpression: condition, FilterExpression: p.filter,
		ExpressionAttributeNames: p.express.names, ExpressionAttributeValues: p.express.values,
		ExclusiveStartKey: p.start, Limit: p.limit, Select: p.selection(), ConsistentRead: &p.strong,
	}
	if _, is := p.opt[optForward]; is {
		forward := p.opt.flag(optForward)
		in.ScanIndexForward = &forward
	}
	out, err := through(&s.queries, p.strong, in, func() (*dynamodb.QueryOutput, error) { return s.dynamodb.Query(requestOf(args), in) })
	if err != nil {
		return nil, err
	}
	return s.pageAnswer(p, out.Items, out.Count, out.ScannedCount, out.LastEvaluatedKey)
}

func (s *Server) scan(args []any) ([]byte, error) {
	p, err := s.page(args)
	if err != nil {
		return nil, err
	}
	in := &dynamodb.ScanInput{
		TableName: &p.table, IndexName: p.index, FilterExpression: p.filter,
		ExpressionAttributeNames: p.express.names, ExpressionAttributeValues: p.express.values,
		ExclusiveStartKey: p.start, Limit: p.limit, Select: p.selection(), ConsistentRead: &p.strong,
	}
	if n, is := p.opt.number(optSegment); is {
		in.Segment = &n
	}
	if n, is := p.opt.number(optTotalSegments); is {
		in.TotalSegments = &n
	}
	out, err := through(&s.scans, p.strong, in, func() (*dynamodb.ScanOutput, error) { return s.dynamodb.Scan(requestOf(args), in) })
	if err != nil {
		return nil, err
	}
	return s.pageAnswer(p, out.Items, out.Count, out.ScannedCount, out.LastEvaluatedKey)
}

// through reads a result set from the cache by its parameters, which is all
// that DAX knows it by: no write touches it.
func through[T any](c *cache[T], strong bool, in any, load func() (T, error)) (T, error) {
	if strong {
		return load()
	}
	key, err := json.Marshal(in)
	if err != nil {
		var zero T
		return zero, err
	}
	if out, is := c.get(string(key)); is {
		return out, nil
	}
	out, err := load()
	if err == nil {
		c.put(string(key), out)
	}
	return out, err
}

func (s *Server) pageAnswer(p *page, found []Item, count, scanned int32, last Item) ([]byte, error) {
	w := ok()
	n := 2
	if !p.count {
		n++
	}
	if last != nil {
		n++
	}
	w.mapping(n)
	w.integer(partCount)
	w.integer(int64(count))
	w.integer(partScannedCount)
	w.integer(int64(scanned))
	if !p.count {
		w.integer(partItems)
		w.array(len(found))
		for _, item := range found {
			if err := w.found(s, p, item); err != nil {
				return nil, err
			}
		}
	}
	if last != nil {
		w.integer(partLastKey)
		if err := w.lastKey(p, last); err != nil {
			return nil, err
		}
	}
	return w.b, nil
}

func (w *wire) found(s *Server, p *page, item Item) error {
	if p.paths != nil {
		return w.project(item, p.paths)
	}
	w.array(2)
	key, err := p.schema.encode(item)
	if err != nil {
		return err
	}
	w.bytes(key)
	return w.attributes(s, item, p.schema)
}

func (w *wire) lastKey(p *page, last Item) error {
	if p.index == nil {
		key, err := p.schema.encode(last)
		w.bytes(key)
		return err
	}
	inner := &wire{b: []byte{0xbf}} // the client insists on a map without a length
	for _, name := range sortedNames(last) {
		inner.text(name)
		if err := inner.value(last[name]); err != nil {
			return err
		}
	}
	inner.b = append(inner.b, 0xff)
	w.bytes(inner.b)
	return nil
}
