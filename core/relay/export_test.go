package relay

// MaxEvents is how many events are kept of one shared stream.
const MaxEvents = maxEvents

// ShareAlone has one who watches alone share a stream with nobody.
func (r *Relay) ShareAlone() *Relay {
	r.crowd = 1
	return r
}
