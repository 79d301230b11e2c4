package redisbackend

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// record is one version as Redis holds it. The scripts write its first line.
type record struct {
	version uint64
	deleted bool
	seq     uint64
	at      time.Time
	meta    meta
	value   []byte
}

// meta is the second line.
type meta struct {
	ContentType string `json:"type,omitempty"`
	UpdatedBy   string `json:"by,omitempty"`
	Message     string `json:"message,omitempty"`
}

var errDamaged = config.Errorf(config.DataLoss, "a stored record can not be read").
	WithHint("put the key again, or restore a backup of the server")

func parseRecord(s string) (record, error) {
	header, rest, ok := strings.Cut(s, "\n")
	fields := strings.Split(header, " ")
	if !ok || len(fields) != 4 || fields[1] != "p" && fields[1] != "d" {
		return record{}, errDamaged
	}
	r := record{deleted: fields[1] == "d"}
	var micros uint64
	if !parseNumber(fields[0], &r.version) || !parseNumber(fields[2], &r.seq) || !parseNumber(fields[3], &micros) {
		return record{}, errDamaged
	}
	r.at = time.UnixMicro(int64(micros)).UTC()
	line, value, ok := strings.Cut(rest, "\n")
	if !ok || json.Unmarshal([]byte(line), &r.meta) != nil {
		return record{}, errDamaged
	}
	r.value = []byte(value)
	return r, nil
}

func parseNumber(s string, into *uint64) bool {
	var err error
	*into, err = strconv.ParseUint(s, 10, 64)
	return err == nil
}

func (r record) entry(id config.ID) config.Entry {
	e := config.Entry{
		ID: id, ContentType: r.meta.ContentType, Version: r.version, Revision: config.Revision(strconv.FormatUint(r.seq, 10)),
		UpdatedAt: r.at, UpdatedBy: r.meta.UpdatedBy, Message: r.meta.Message, Deleted: r.deleted,
	}
	if !r.deleted {
		e.Value = r.value
	}
	return e
}
