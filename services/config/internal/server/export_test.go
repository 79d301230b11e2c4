package server

import "google.golang.org/grpc"

// ServiceInfo lets the tests find every registered RPC.
func (s *Server) ServiceInfo() map[string]grpc.ServiceInfo { return s.grpc.GetServiceInfo() }

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
