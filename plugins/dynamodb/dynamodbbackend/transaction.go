package dynamodbbackend

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// role says what one item of a transaction is for.
type role int

const (
	roleCurrent role = iota // the current item
	roleVersion             // the record of the new version
	roleForeign             // the record of what another tool had made of the item
	roleOnce                // the memory of an idempotency key
	roleExpire              // the record of the version before, which begins to expire
	roleDrop                // a record over the history limit
)

// transaction is all of one write, which happens whole or not at all.
type transaction struct {
	input *dynamodb.TransactWriteItemsInput
	roles []role
	next  uint64
	now   time.Time
}

func (tx *transaction) add(r role, item types.TransactWriteItem) {
	tx.roles = append(tx.roles, r)
	tx.input.TransactItems = append(tx.input.TransactItems, item)
}

// failures returns the reasons of those items whose condition was broken.
func (tx *transaction) failures(reasons []types.CancellationReason) map[role]types.CancellationReason {
	failed := map[role]types.CancellationReason{}
	for i, r := range reasons {
		if aws.ToString(r.Code) == reasonCondition {
			failed[tx.roles[i]] = r
		}
	}
	return failed
}

// expression collects the names and values of one item's expressions.
type expression struct {
	names  map[string]string
	values map[string]types.AttributeValue
}

func newExpression() *expression {
	return &expression{names: map[string]string{}, values: map[string]types.AttributeValue{}}
}

// path returns the placeholder of an attribute, or of an entry of one.
func (x *expression) path(names ...string) string {
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = "#" + name
		x.names[parts[i]] = name
	}
	return strings.Join(parts, ".")
}

// value returns the placeholder of a value.
func (x *expression) value(name string, v types.AttributeValue) string {
	x.values[":"+name] = v
	return ":" + name
}

// transaction builds what a plan comes to.
func (s *Store) transaction(w *write, p *plan) (*transaction, error) {
	foreign, next := p.versions()
	tx := &transaction{input: &dynamodb.TransactWriteItemsInput{}, next: next, now: s.timeAfter(p.base.updatedAt)}
	record := s.record(w, w.forms[p.form], tx)
	for itemSize(record) > maxItem || s.currentSize(w, p, tx) > maxItem {
		if p.form+1 == len(w.forms) {
			return nil, errOversize()
		}
		p.form++
		record = s.record(w, w.forms[p.form], tx)
	}
	tx.add(roleCurrent, types.TransactWriteItem{Update: s.update(w, p, tx)})
	tx.add(roleVersion, s.fresh(record))
	drops := s.drops(foreign, next)
	if foreign > 0 && !slices.Contains(drops, foreign) {
		tx.add(roleForeign, s.fresh(s.foreignRecord(w, p.base, foreign, tx.now)))
	}
	if w.idempotency != "" {
		tx.add(roleOnce, types.TransactWriteItem{Put: s.rememberOnce(w, tx)})
	}
	s.addRetention(w, p, drops, tx)
	return tx, nil
}

// timeAfter returns the time of a write: a clock that was set back, or is behind
// another process's, does not show.
func (s *Store) timeAfter(before time.Time) time.Time {
	now := s.now().UTC().Truncate(time.Millisecond)
	if before.After(now) {
		now = before.Add(time.Millisecond - 1).Truncate(time.Millisecond)
	}
	return now
}

// drops returns the versions that fall out of the history limit: one for each
// that is added.
func (s *Store) drops(added ...uint64) []uint64 {
	var versions []uint64
	for _, v := range added {
		if s.historyLimit > 0 && v > s.historyLimit {
			versions = append(versions, v-s.historyLimit)
		}
	}
	return versions
}

// addRetention drops records, and lets the one of the version before begin to
// expire unless it is one of them.
func (s *Store) addRetention(w *write, p *plan, drops []uint64, tx *transaction) {
	for _, version := range drops {
		tx.add(roleDrop, types.TransactWriteItem{Delete: &types.Delete{
			TableName: s.tableRef(), Key: historyKey(w.at, version).attributes(),
		}})
	}
	if s.historyTTL == 0 || p.base.wrote == 0 || p.keepAll || slices.Contains(drops, p.base.wrote) {
		return
	}
	x := newExpression()
	expires := x.value("expires", number(uint64(tx.now.Add(s.historyTTL).Unix())))
	x.names["#ttl"] = s.ttlAttribute // which may have any byte in it
	tx.add(roleExpire, types.TransactWriteItem{Update: &types.Update{
		TableName: s.tableRef(), Key: historyKey(w.at, p.base.wrote).attributes(),
		UpdateExpression:         aws.String("SET #ttl = " + expires),
		ConditionExpression:      aws.String("attribute_exists(" + x.path(attrPK) + ")"), // else it would make half a record
		ExpressionAttributeNames: x.names, ExpressionAttributeValues: x.values,
	}})
}

// fresh puts a record that must not be there yet: history is never overwritten.
func (s *Store) fresh(item map[string]types.AttributeValue) types.TransactWriteItem {
	return types.TransactWriteItem{Put: &types.Put{
		TableName: s.tableRef(), Item: item,
		ConditionExpression:                 aws.String("attribute_not_exists(#pk)"),
		ExpressionAttributeNames:            map[string]string{"#pk": attrPK},
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}}
}

// record is the history record of the version that w makes.
func (s *Store) record(w *write, d document, tx *transaction) map[string]types.AttributeValue {
	item := historyKey(w.at, tx.next).attributes()
	item[attrVersion] = number(tx.next)
	item[attrActive] = boolean(!w.deleted)
	item[attrUpdated] = str(formatTime(tx.now))
	setText(item, attrUpdatedBy, w.updatedBy)
	setText(item, attrMessage, w.message)
	own := map[string]types.AttributeValue{ownRevision: str(string(w.revision))}
	if !w.deleted {
		addDocument(item, own, d)
	}
	item[attrOwn] = &types.AttributeValueMemberM{Value: own}
	return item
}

// addDocument adds a value to an item and to the plugin's own part of it.
func addDocument(item, own map[string]types.AttributeValue, d document) {
	item[attrConfig] = d.config
	setText(item, attrContentType, d.contentType)
	if _, _, sum, err := d.decode(func([]byte) bool { return false }); err == nil {
		own[ownSum] = binaryOf(sum)
	}
	if d.raw != nil {
		own[ownRaw] = binaryOf(d.raw)
	}
}

func setText(item map[string]types.AttributeValue, name, value string) {
	if value != "" {
		item[name] = str(value)
	}
}

// foreignRecord is the history record of a state that another tool made, with
// its attributes as they are.
func (s *Store) foreignRecord(w *write, st state, version uint64, now time.Time) map[string]types.AttributeValue {
	item := historyKey(w.at, version).attributes()
	item[attrVersion] = number(version)
	item[attrActive] = boolean(st.live)
	for _, name := range []string{attrConfig, attrContentType, attrUpdated} {
		if a, ok := st.item[name]; ok {
			item[name] = a
		}
	}
	setText(item, attrUpdatedBy, st.updatedBy)
	setText(item, attrMessage, st.message)
	own := map[string]types.AttributeValue{ownRevision: str(string(st.revision))}
	if st.sum != nil {
		own[ownSum] = binaryOf(st.sum)
	}
	if st.raw != nil {
		own[ownRaw] = binaryOf(st.raw)
	}
	item[attrOwn] = &types.AttributeValueMemberM{Value: own}
	if s.historyTTL > 0 {
		item[s.ttlAttribute] = number(uint64(now.Add(s.historyTTL).Unix()))
	}
	return item
}

// ownPart is what the plugin notes beside the item: see the constants.
func ownPart(w *write, tx *transaction) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{
		ownVersion:  number(tx.next),
		ownAt:       str(formatTime(tx.now)),
		ownActive:   boolean(!w.deleted),
		ownRevision: str(string(w.revision)),
		ownWho:      binaryOf(whoSum(w.updatedBy, w.message)),
	}
}

// currentSize is what the current item will have at most. Attributes of other
// tools count as far as they were seen.
func (s *Store) currentSize(w *write, p *plan, tx *transaction) int {
	if w.deleted {
		return 0 // it grows by some bytes at most, and DynamoDB looks again
	}
	item := w.at.attributes()
	if p.seen {
		maps.Copy(item, p.base.item)
	}
	for _, name := range []string{attrContentType, attrUpdatedBy, attrMessage} {
		delete(item, name)
	}
	own := ownPart(w, tx)
	addDocument(item, own, w.forms[p.form])
	item[attrOwn] = &types.AttributeValueMemberM{Value: own}
	item[attrActive] = boolean(true)
	item[attrVersion] = number(tx.next)
	item[attrUpdated] = str(formatTime(tx.now))
	if _, ok := item[attrCreated]; !ok {
		item[attrCreated] = item[attrUpdated]
	}
	setText(item, attrUpdatedBy, w.updatedBy)
	setText(item, attrMessage, w.message)
	return itemSize(item)
}

// update changes the current item under its condition, and leaves the attributes
// of other tools as they are.
func (s *Store) update(w *write, p *plan, tx *transaction) *types.Update {
	x := newExpression()
	condition := s.condition(x, w, p, tx)
	var set, remove []string
	put := func(placeholder, path string, v types.AttributeValue) {
		set = append(set, path+" = "+x.value(placeholder, v))
	}
	own := ownPart(w, tx)
	if !w.deleted {
		item := map[string]types.AttributeValue{}
		addDocument(item, own, w.forms[p.form])
		put("config", x.path(attrConfig), item[attrConfig])
		if a, ok := item[attrContentType]; ok {
			put("contentType", x.path(attrContentType), a)
		} else {
			remove = append(remove, x.path(attrContentType))
		}
	}
	now := x.value("now", str(formatTime(tx.now)))
	put("active", x.path(attrActive), boolean(!w.deleted))
	put("version", x.path(attrVersion), number(tx.next))
	set = append(set, x.path(attrUpdated)+" = "+now, x.path(attrCreated)+" = if_not_exists("+x.path(attrCreated)+", "+now+")")
	for _, text := range []struct{ name, value string }{{attrUpdatedBy, w.updatedBy}, {attrMessage, w.message}} {
		if text.value == "" {
			remove = append(remove, x.path(text.name))
		} else {
			put(text.name, x.path(text.name), str(text.value))
		}
	}
	switch {
	case w.deleted && !p.base.foreign:
		// The value stays, and with it what is noted of it.
		for _, name := range slices.Sorted(maps.Keys(own)) {
			put("own_"+name, x.path(attrOwn, name), own[name])
		}
	case w.deleted:
		own[ownSum] = binaryOf(append([]byte{}, p.base.sum...))
		if p.base.raw != nil {
			own[ownRaw] = binaryOf(p.base.raw)
		}
		fallthrough
	default:
		put("own", x.path(attrOwn), &types.AttributeValueMemberM{Value: own})
	}
	text := "SET " + strings.Join(set, ", ")
	if len(remove) > 0 {
		text += " REMOVE " + strings.Join(remove, ", ")
	}
	return &types.Update{
		TableName: s.tableRef(), Key: w.at.attributes(),
		UpdateExpression: aws.String(text), ConditionExpression: aws.String(condition),
		ExpressionAttributeNames: x.names, ExpressionAttributeValues: x.values,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}
}

// condition holds exactly if the item is what the plan has as its base:
//
//   - It does not exist.
//   - It is as the plugin left it with that version: neither version, nor
//     updatedAt, nor isActive was changed since by another tool. This needs no
//     more knowledge than the version, so a first guess will do.
//   - Another tool has changed it: every attribute that a write replaces is as
//     it was seen.
func (s *Store) condition(x *expression, w *write, p *plan, tx *transaction) string {
	switch {
	case !p.base.exists:
		return "attribute_not_exists(" + x.path(attrPK) + ")"
	case p.base.foreign:
		return seenCondition(x, p.base.item)
	}
	base := x.value("base", number(p.base.version))
	all := []string{
		x.path(attrVersion) + " = " + base,
		x.path(attrOwn, ownVersion) + " = " + base,
		x.path(attrUpdated) + " = " + x.path(attrOwn, ownAt),
		x.path(attrActive) + " = " + x.path(attrOwn, ownActive),
		x.path(attrUpdated) + " <= " + x.value("now", str(formatTime(tx.now))),
	}
	if version, set := w.expect.Value(); w.deleted || set && version == 0 {
		all = append(all, x.path(attrActive)+" = "+x.value("live", boolean(w.deleted)))
	}
	return strings.Join(all, " AND ")
}

func seenCondition(x *expression, item map[string]types.AttributeValue) string {
	var all []string
	for _, name := range []string{attrConfig, attrContentType, attrActive, attrVersion, attrUpdated, attrUpdatedBy, attrMessage, attrOwn} {
		if a, ok := item[name]; ok {
			all = append(all, x.path(name)+" = "+x.value("seen_"+name, a))
		} else {
			all = append(all, "attribute_not_exists("+x.path(name)+")")
		}
	}
	// One that was removed since would meet the conditions of an item with none.
	return strings.Join(append(all, "attribute_exists("+x.path(attrPK)+")"), " AND ")
}
