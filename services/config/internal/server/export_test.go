package server

import (
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
)

// ServiceInfo lets the tests find every registered RPC.
func (s *Server) ServiceInfo() map[string]grpc.ServiceInfo { return s.grpc.GetServiceInfo() }

// SetNow gives the rates of tenants a clock.
func SetNow(o *Options, now func() time.Duration) { o.now = now }

// OpenStreams returns how many connections and tenants hold streams.
func (s *Server) OpenStreams() (conns, tenants int) {
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	return len(s.streams.conns), len(s.streams.tenants)
}

// CheckMethods compares the method table with what a server has registered.
func CheckMethods(dev bool, services map[string]grpc.ServiceInfo) error {
	return methods(dev).Check(services)
}

// ToGetResponse is the message of an answer that is not prepared.
func ToGetResponse(e config.Entry, f config.Freshness) *tagstorev1.GetResponse {
	return &tagstorev1.GetResponse{Entry: toEntry(e), Freshness: toFreshness(f)}
}

// PreparedBytes is what is sent of an answer that is.
func PreparedBytes(t *testing.T, form []byte, f config.Freshness) []byte {
	t.Helper()
	data, err := newCodec().Marshal(newPrepared(form, f))
	if err != nil {
		t.Fatal(err)
	}
	return data.Materialize()
}

// ParseFrame reads a message of a Session.
func ParseFrame(data []byte, most int) (*tagstorev1.SessionRequest, error) {
	var f frame
	f.read(mem.BufferSlice{mem.SliceBuffer(data)})
	return f.parse(most)
}
