package emulators

import (
	"io"
	"net/http"
)

// PlainBody is a transport for an AWS SDK that a test uses as another tool
// would. It sends a request's body through Read alone: the SDK closes the body
// as soon as the answer arrives, and through io.WriterTo net/http would take that
// for a failed write, cut the connection, and the SDK would send the request
// again. An emulator answers fast enough for that to happen.
type PlainBody struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (p PlainBody) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context())
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return p.RoundTripper.RoundTrip(r)
}
