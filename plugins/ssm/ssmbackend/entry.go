package ssmbackend

import (
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// revision is different for any two versions of one ID, those of a key that was
// deleted and put again included: it holds the time at which the version was
// made. Parameter Store tells times in milliseconds.
func revision(version uint64, made time.Time) config.Revision {
	return config.Revision(strconv.FormatUint(version, 10) + "-" + strconv.FormatInt(made.UnixMilli(), 36))
}

// stamp sets what a version's number and time say.
func stamp(id config.ID, version int64, made *time.Time, kind types.ParameterType) config.Entry {
	at := aws.ToTime(made).UTC()
	return config.Entry{
		ID:        id,
		Version:   uint64(version),
		Revision:  revision(uint64(version), at),
		UpdatedAt: at,
		Secret:    kind == types.ParameterTypeSecureString,
	}
}

// entryOf returns a parameter that was read for id from this name; Internal
// where it is of another.
func entryOf(id config.ID, name string, p *types.Parameter) (config.Entry, error) {
	if p == nil || aws.ToString(p.Name) != name || p.Value == nil || p.Version < 1 {
		return config.Entry{}, errForeign()
	}
	e := stamp(id, p.Version, p.LastModifiedDate, p.Type)
	e.Value = []byte(*p.Value)
	e.ContentType = driver.InferType(e.Value)
	return e, nil
}
