// Package errgrpc carries config.Error across gRPC: as the canonical gRPC code
// for every client, and as a typed detail for those that know it. The detail
// wins on the way back, so codes that share a gRPC code stay apart.
//
// What crosses is what config.Error.Error shows; the cause never does.
package errgrpc

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tagstore/tagstore/core/config"
	errorv1 "github.com/tagstore/tagstore/core/internal/gen/tagstore/error/v1"
)

// grpcCodes is indexed by config.Code. The gRPC codes are used as
// google.golang.org/grpc/codes documents them.
var grpcCodes = map[config.Code]codes.Code{
	config.Unknown:            codes.Unknown,
	config.NotFound:           codes.NotFound,
	config.InvalidArgument:    codes.InvalidArgument,
	config.Conflict:           codes.Aborted,
	config.AlreadyExists:      codes.AlreadyExists,
	config.PermissionDenied:   codes.PermissionDenied,
	config.Unauthenticated:    codes.Unauthenticated,
	config.ResourceExhausted:  codes.ResourceExhausted,
	config.FailedPrecondition: codes.FailedPrecondition,
	config.OutOfRange:         codes.OutOfRange,
	config.Unimplemented:      codes.Unimplemented,
	config.Internal:           codes.Internal,
	config.Unavailable:        codes.Unavailable,
	config.OutcomeUnknown:     codes.Unavailable,
	config.DataLoss:           codes.DataLoss,
	config.Canceled:           codes.Canceled,
	config.DeadlineExceeded:   codes.DeadlineExceeded,
}

// configCodes is the way back for a status without our detail: each gRPC code
// once, with the plain meaning of those that two codes share.
var configCodes = map[codes.Code]config.Code{
	codes.Canceled:           config.Canceled,
	codes.Unknown:            config.Unknown,
	codes.InvalidArgument:    config.InvalidArgument,
	codes.DeadlineExceeded:   config.DeadlineExceeded,
	codes.NotFound:           config.NotFound,
	codes.AlreadyExists:      config.AlreadyExists,
	codes.PermissionDenied:   config.PermissionDenied,
	codes.ResourceExhausted:  config.ResourceExhausted,
	codes.FailedPrecondition: config.FailedPrecondition,
	codes.Aborted:            config.Conflict,
	codes.OutOfRange:         config.OutOfRange,
	codes.Unimplemented:      config.Unimplemented,
	codes.Internal:           config.Internal,
	codes.Unavailable:        config.Unavailable,
	codes.DataLoss:           config.DataLoss,
	codes.Unauthenticated:    config.Unauthenticated,
}

// ToStatus returns err as a status with our detail; nil is OK. A status error
// is returned as it is unless a config.Error stands around it: that one was
// written for the caller, and what it holds as its cause was not.
func ToStatus(err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	var ours *config.Error
	var carried interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &ours) && errors.As(err, &carried) {
		return carried.GRPCStatus()
	}
	e := config.AsError(err, "", config.Key{})
	s := status.New(grpcCodes[e.Code], e.Error())
	// The only failure is a status that is OK, and no config.Code maps to OK.
	if detailed, err := s.WithDetails(ToDetail(e)); err == nil {
		return detailed
	}
	return s
}

// ToDetail returns the wire form of err, nil for nil.
func ToDetail(err error) *errorv1.ErrorDetail {
	if err == nil {
		return nil
	}
	e := config.AsError(err, "", config.Key{})
	d := &errorv1.ErrorDetail{
		Code: errorv1.Code(e.Code), Op: e.Op, Key: e.Key.String(),
		Message: e.Message, Hint: e.Hint, CurrentVersion: e.Version,
	}
	if e.RetryAfter > 0 {
		d.RetryAfter = durationpb.New(e.RetryAfter)
	}
	return d
}

// FromDetail is the reverse of ToDetail. A code that this build does not know
// becomes Unknown, a key that is not valid is left out.
func FromDetail(d *errorv1.ErrorDetail) *config.Error {
	if d == nil {
		return nil
	}
	e := &config.Error{Op: d.GetOp(), Message: d.GetMessage(), Hint: d.GetHint(), Version: d.GetCurrentVersion()}
	if c := d.GetCode(); c > 0 && int(c) < len(config.Codes()) {
		e.Code = config.Code(c)
	}
	if key, err := config.ParseKey(d.GetKey()); err == nil {
		e.Key = key
	}
	if d.GetRetryAfter().IsValid() {
		e.RetryAfter = max(0, d.GetRetryAfter().AsDuration())
	}
	return e
}

// FromError returns what came back from a gRPC call as a *config.Error, nil
// for nil. Without our detail among the status's, the gRPC code decides.
func FromError(err error) error {
	if err == nil {
		return nil
	}
	var known *config.Error
	if errors.As(err, &known) {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		return config.AsError(err, "", config.Key{})
	}
	if e := FromStatus(s); e != nil {
		return e.WithCause(err)
	}
	return nil
}

// FromStatus is FromError for a status; nil for OK.
func FromStatus(s *status.Status) *config.Error {
	if s.Code() == codes.OK {
		return nil
	}
	for _, detail := range s.Details() {
		if d, ok := detail.(*errorv1.ErrorDetail); ok {
			return FromDetail(d)
		}
	}
	return &config.Error{Code: configCodes[s.Code()], Message: s.Message()}
}

// UnaryServer encodes the errors of unary handlers.
func UnaryServer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err != nil {
		return nil, ToStatus(err).Err()
	}
	return resp, nil
}

// StreamServer encodes the errors of stream handlers.
func StreamServer(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := next(srv, stream); err != nil {
		return ToStatus(err).Err()
	}
	return nil
}
