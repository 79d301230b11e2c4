package dynamodbbackend

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
)

// The attributes of an item. All but the last are for everybody to read.
const (
	attrPK          = "pk"
	attrSK          = "sk"
	attrConfig      = "config"
	attrActive      = "isActive"
	attrVersion     = "version"
	attrCreated     = "createdAt"
	attrUpdated     = "updatedAt"
	attrUpdatedBy   = "updatedBy"
	attrMessage     = "message"
	attrContentType = "contentType"
	attrOwn         = "tagstore"
)

// The entries of attrOwn: what the plugin's last write left, beside which every
// change of another tool shows.
const (
	ownVersion  = "v"      // N: version
	ownAt       = "at"     // S: updatedAt
	ownActive   = "active" // BOOL: isActive
	ownSum      = "sum"    // B: document.sum
	ownRaw      = "raw"    // B: document.raw
	ownRevision = "rev"    // S: the entry's revision
	ownWho      = "who"    // B: whoSum of updatedBy and message
)

// The attributes of what is remembered of an idempotency key.
const (
	onceDigest  = "digest"  // B: requestDigest
	onceExpires = "expires" // N: milliseconds since 1970
)

func number(v uint64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: fmt.Sprint(v)}
}
func str(s string) types.AttributeValue      { return &types.AttributeValueMemberS{Value: s} }
func boolean(b bool) types.AttributeValue    { return &types.AttributeValueMemberBOOL{Value: b} }
func binaryOf(b []byte) types.AttributeValue { return &types.AttributeValueMemberB{Value: b} }

func blob(a types.AttributeValue) []byte {
	if b, ok := a.(*types.AttributeValueMemberB); ok {
		return b.Value
	}
	return nil
}

// state is what the table holds of one ID.
type state struct {
	exists bool
	live   bool
	// version is the version that this state counts as. See effectiveVersion.
	version uint64
	// foreign: another tool made it. There is no history record of it.
	foreign bool
	// wrote is the version of the plugin's last write; 0 if it never wrote the
	// item.
	wrote     uint64
	updatedAt time.Time
	updatedBy string
	message   string
	revision  config.Revision

	value       []byte
	contentType string
	// damage is why a live value can not be read.
	damage error

	item map[string]types.AttributeValue
	sum  []byte // of the value
	raw  []byte // packed bytes that belong to it
}

var (
	errVersionAttribute = config.Errorf(config.DataLoss, "the item's version is not a whole number from 0").
				WithHint("another tool wrote it: correct the version attribute")
	errActiveAttribute = config.Errorf(config.DataLoss, "the item's isActive is neither true nor false").
				WithHint("another tool wrote it: correct the isActive attribute")
	errConfigAttribute = config.Errorf(config.DataLoss, "the item has no config attribute that can be read as a value").
				WithHint("another tool wrote it: correct the config attribute, or put the key again")
)

// stateOf reads a current item; nil is a key that does not exist. An error says
// that not even the version can be told.
func stateOf(item map[string]types.AttributeValue) (state, error) {
	if item == nil {
		return state{}, nil
	}
	s := state{exists: true, item: item, updatedAt: parseTime(item[attrUpdated])}
	stored, err := versionAttribute(item[attrVersion])
	if err != nil {
		return state{}, err
	}
	if s.live, err = activeAttribute(item[attrActive]); err != nil {
		return state{}, err
	}
	own, _ := item[attrOwn].(*types.AttributeValueMemberM)
	d := documentOf(item, own)
	var damage error
	s.value, s.contentType, s.sum, damage = d.decode(func(sum []byte) bool {
		if own == nil || !bytes.Equal(sum, blob(own.Value[ownSum])) {
			return false
		}
		s.raw = d.raw
		return true
	})
	if damage != nil {
		s.damage = errConfigAttribute
	}
	s.updatedBy, s.message = text(item[attrUpdatedBy]), text(item[attrMessage])
	s.readOwn(own, stored)
	if s.foreign {
		s.revision = foreignRevision(s)
	}
	return s, nil
}

// readOwn compares the item with what the plugin's last write left, and tells
// from it which version this is:
//
//   - Nothing differs: the version of that write.
//   - Something differs, and the version is higher: the version that the other
//     tool counted.
//   - Something differs, and the version is not higher: one more than that of
//     the write. All changes of other tools since then count as one.
//   - The plugin never wrote the item: the version that it has, 1 if none.
func (s *state) readOwn(own *types.AttributeValueMemberM, stored uint64) {
	s.foreign, s.version = true, max(stored, 1)
	if own == nil {
		return
	}
	wrote, err := versionAttribute(own.Value[ownVersion])
	if err != nil || wrote == 0 {
		return // not ours, or spoilt
	}
	s.wrote = wrote
	active, _ := own.Value[ownActive].(*types.AttributeValueMemberBOOL)
	at := text(own.Value[ownAt])
	same := stored == wrote && active != nil && active.Value == s.live && at != "" && at == text(s.item[attrUpdated]) &&
		bytes.Equal(s.sum, blob(own.Value[ownSum]))
	if same {
		s.foreign, s.version, s.revision = false, wrote, config.Revision(text(own.Value[ownRevision]))
		return
	}
	if bytes.Equal(whoSum(s.updatedBy, s.message), blob(own.Value[ownWho])) {
		s.updatedBy, s.message = "", "" // they speak of the plugin's last write, not of this state
	}
	if stored <= wrote && wrote < noVersion {
		s.version = wrote + 1
	}
}

func documentOf(item map[string]types.AttributeValue, own *types.AttributeValueMemberM) document {
	d := document{config: item[attrConfig], contentType: text(item[attrContentType])}
	if own != nil {
		d.raw = blob(own.Value[ownRaw])
	}
	return d
}

// versionAttribute reads a version as a number or as text; 0 if there is none.
func versionAttribute(a types.AttributeValue) (uint64, error) {
	var digits string
	switch a := a.(type) {
	case nil, *types.AttributeValueMemberNULL:
		return 0, nil
	case *types.AttributeValueMemberN:
		digits = a.Value
	case *types.AttributeValueMemberS:
		digits = strings.TrimSpace(a.Value)
	default:
		return 0, errVersionAttribute
	}
	d, ok := parseDecimal(digits)
	if !ok {
		return 0, errVersionAttribute
	}
	v, ok := d.uint64()
	if !ok {
		return 0, errVersionAttribute
	}
	return v, nil
}

// activeAttribute reads isActive; an item without it is active.
func activeAttribute(a types.AttributeValue) (bool, error) {
	switch a := a.(type) {
	case nil:
		return true, nil
	case *types.AttributeValueMemberBOOL:
		return a.Value, nil
	case *types.AttributeValueMemberN:
		if d, ok := parseDecimal(a.Value); ok && (d.digits == "" || d.String() == "1") {
			return d.digits != "", nil
		}
	case *types.AttributeValueMemberS:
		switch strings.ToLower(a.Value) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
	}
	return false, errActiveAttribute
}

// whoSum tells author and message of one write from those of another.
func whoSum(updatedBy, message string) []byte {
	h := sha256.New()
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(updatedBy)))
	h.Write(n[:])
	h.Write([]byte(updatedBy))
	h.Write([]byte(message))
	return h.Sum(nil)[:8]
}

// foreignRevision is the revision of a state that another tool made, which left
// none: a digest of all that makes it another state.
func foreignRevision(s state) config.Revision {
	h := sha256.New()
	fmt.Fprintf(h, "%d %t %d ", s.version, s.live, s.updatedAt.UnixNano())
	if updated, err := appendJSON(nil, s.item[attrUpdated], 0); err == nil {
		h.Write(updated)
	}
	h.Write(s.sum)
	return config.Revision(fmt.Sprintf("%d-%s", s.version, hex.EncodeToString(h.Sum(nil)[:12])))
}

// entry returns a live state as the entry of id.
func (s state) entry(id config.ID) (config.Entry, error) {
	switch {
	case !s.exists || !s.live:
		return config.Entry{}, errNotFound()
	case s.damage != nil:
		return config.Entry{}, s.damage
	}
	return config.Entry{
		ID: id, Value: s.value, ContentType: s.contentType, Version: s.version, Revision: s.revision,
		UpdatedAt: s.updatedAt, UpdatedBy: s.updatedBy, Message: s.message,
	}, nil
}

// version returns any existing state as History shows it.
func (s state) asVersion(id config.ID) (config.Entry, error) {
	if s.live {
		return s.entry(id)
	}
	return config.Entry{
		ID: id, Version: s.version, Revision: s.revision,
		UpdatedAt: s.updatedAt, UpdatedBy: s.updatedBy, Message: s.message, Deleted: true,
	}, nil
}

// historical reads a history record, whose version is that of its key.
func historical(id config.ID, version uint64, item map[string]types.AttributeValue) (config.Entry, error) {
	own, _ := item[attrOwn].(*types.AttributeValueMemberM)
	live, err := activeAttribute(item[attrActive])
	if err != nil {
		return config.Entry{}, err
	}
	e := config.Entry{
		ID: id, Version: version, UpdatedAt: parseTime(item[attrUpdated]),
		UpdatedBy: text(item[attrUpdatedBy]), Message: text(item[attrMessage]), Deleted: !live,
	}
	var stored []byte
	if own != nil {
		e.Revision, stored = config.Revision(text(own.Value[ownRevision])), blob(own.Value[ownSum])
	}
	if e.Revision == "" {
		e.Revision = config.Revision(fmt.Sprintf("%d-history", version))
	}
	if !live {
		return e, nil
	}
	e.Value, e.ContentType, _, err = documentOf(item, own).decode(func(sum []byte) bool { return bytes.Equal(sum, stored) })
	if err != nil {
		return config.Entry{}, errConfigAttribute
	}
	return e, nil
}

// expired reports whether DynamoDB is about to remove an item: it may take days
// over it.
func expired(item map[string]types.AttributeValue, ttl string, now time.Time) bool {
	n, ok := item[ttl].(*types.AttributeValueMemberN)
	if !ok {
		return false
	}
	d, ok := parseDecimal(n.Value)
	if !ok {
		return false
	}
	at, ok := d.uint64()
	return ok && at > 0 && int64(at) <= now.Unix()
}
