package client

import "time"

// SetStreamSpan has the streams of a client take calls for that long.
func (c *Client) SetStreamSpan(d time.Duration) { c.carriers.span = d }
