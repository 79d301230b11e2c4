package ssmbackend

import (
	"strings"

	"github.com/tagstore/tagstore/core/config"
)

// Parameter Store's limits on a name. A name counts with the ARN in front of
// it towards 1011 characters; maxName leaves room for the longest partition
// and region.
const (
	maxLevels = 15
	maxName   = 950
)

// nameToWrite returns the name of the parameter that holds id, or
// InvalidArgument where there can be none.
func (s *Store) nameToWrite(id config.ID) (string, error) {
	name, err := s.names.Path(id)
	if err != nil {
		return "", err
	}
	levels := strings.Count(name, "/")
	switch {
	case reserved(name):
		return "", config.Errorf(config.InvalidArgument, `the parameter's name would start with "aws" or "ssm", which is Parameter Store's own`).
			WithHint("put a segment of your own in front of the path template, such as /config")
	case levels > maxLevels:
		return "", config.Errorf(config.InvalidArgument, "the parameter's name would have %d levels, Parameter Store takes %d", levels, maxLevels).
			WithHint("use a key with fewer '/', or a shorter path template")
	case len(name) > maxName:
		return "", config.Errorf(config.InvalidArgument, "the parameter's name would have %d characters, the limit is %d", len(name), maxName).
			WithHint("use a shorter key, or a shorter path template")
	}
	return name, nil
}

// nameToRead returns the name of the parameter that holds id. An ID that
// nothing can be put under is one that nothing was put under: NotFound, so that
// a layer of which the key is no part does not spoil the layers below it. A key
// of another prefix is InvalidArgument all the same: it came to the wrong store.
func (s *Store) nameToRead(id config.ID) (string, error) {
	name, err := s.nameToWrite(id)
	if err == nil || id.IsZero() {
		return name, err
	}
	if _, ours := s.names.NamePrefix(id.Key.String()); !ours {
		return "", err
	}
	return "", errNotFound()
}

// reserved reports whether a name starts as only AWS's own may.
func reserved(name string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	first = strings.ToLower(first)
	return strings.HasPrefix(first, "aws") || strings.HasPrefix(first, "ssm")
}
