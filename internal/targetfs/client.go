package targetfs

import "io"

// Client is an [FS] over one stream. Make one with [NewClient].
type Client struct {
	conn io.ReadWriteCloser
}

// NewClient speaks over conn, a stream of kind files whose first byte is written already. It owns conn. Close ends it; so does the loss
// of conn, after which all calls fail with ESTALE. Done is closed then.
func NewClient(conn io.ReadWriteCloser) *Client { return &Client{conn: conn} }

// Close ends the connection. The handles of the target go with it.
func (c *Client) Close() error { return c.conn.Close() }
