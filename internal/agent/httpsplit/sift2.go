package httpsplit

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/mirrord-go/mirrord/internal/httpfilter"
)

const (
	// maxFrame bounds one frame of the copy, in bytes: a server may allow more than the default.
	maxFrame = 1 << 20
	// maxTable bounds what a header block may refer to.
	maxTable = 64 << 10
	// outFrame is what every server takes (RFC 9113, section 4.2).
	outFrame = 16 << 10
	// maxChosen bounds the streams that are being copied at once.
	maxChosen = 4096
	// maxWindow is the largest there is. What the server sends back nobody reads, and nobody
	// would give it more.
	maxWindow = 1<<31 - 1
	// defaultWindow is what each side may send before it hears anything.
	defaultWindow = 1<<16 - 1
)

// sift2 writes the chosen streams of a copy of an HTTP/2 connection. Header blocks depend on those
// of streams that were not chosen, so they are written anew, without reference to others.
type sift2 struct {
	*sifter
	chosen map[uint32]bool
	w      *xhttp2.Framer // nil before the first chosen stream
	block  bytes.Buffer
	enc    *hpack.Encoder
}

func (s *sifter) http2() error {
	if _, err := s.in.Discard(len(preface)); err != nil {
		return ended(err)
	}
	c := &sift2{sifter: s, chosen: make(map[uint32]bool)}
	r := xhttp2.NewFramer(io.Discard, s.in)
	r.SetMaxReadFrameSize(maxFrame)
	r.MaxHeaderListSize = maxHead
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.ReadMetaHeaders.SetAllowedMaxDynamicTableSize(maxTable)
	for {
		f, err := r.ReadFrame()
		var stream xhttp2.StreamError
		switch {
		case errors.As(err, &stream):
			continue // the server says so to the client
		case errors.Is(err, xhttp2.ErrFrameTooLarge), isProtocol(err):
			return ErrNotSifted
		case err != nil:
			return ended(err)
		}
		if err := c.frame(f); err != nil {
			return err
		}
	}
}

func isProtocol(err error) bool {
	var c xhttp2.ConnectionError
	return errors.As(err, &c)
}

func (c *sift2) frame(f xhttp2.Frame) error {
	id := f.Header().StreamID
	switch f := f.(type) {
	case *xhttp2.MetaHeadersFrame:
		if !c.chosen[id] {
			if f.Truncated || f.PseudoValue("method") == "" || len(c.chosen) >= maxChosen || !c.choose(describe2(f)) {
				return nil
			}
			if err := c.begin(); err != nil {
				return err
			}
			c.chosen[id] = true
		}
		return c.headers(f)
	case *xhttp2.DataFrame:
		if !c.chosen[id] {
			return nil
		}
		return c.data(id, f)
	case *xhttp2.RSTStreamFrame:
		if c.chosen[id] {
			delete(c.chosen, id)
			return c.w.WriteRSTStream(id, f.ErrCode)
		}
	}
	return nil
}

// begin opens the connection for the first chosen stream.
func (c *sift2) begin() (err error) {
	if c.w != nil {
		return nil
	}
	if c.out, err = c.open(); err != nil {
		return err
	}
	c.enc = hpack.NewEncoder(&c.block)
	c.enc.SetMaxDynamicTableSize(0)
	c.w = xhttp2.NewFramer(c.out, nil)
	_, err = io.WriteString(c.out, preface)
	return errors.Join(err,
		c.w.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: maxWindow}, xhttp2.Setting{ID: xhttp2.SettingEnablePush, Val: 0}),
		c.w.WriteWindowUpdate(0, maxWindow-defaultWindow),
		c.w.WriteSettingsAck())
}

// headers writes a header block or a trailer.
func (c *sift2) headers(f *xhttp2.MetaHeadersFrame) error {
	c.block.Reset()
	for _, field := range f.Fields {
		if err := c.enc.WriteField(field); err != nil {
			return err
		}
	}
	id, first := f.Header().StreamID, true
	if f.StreamEnded() {
		delete(c.chosen, id)
	}
	for {
		part := c.block.Next(outFrame)
		last := c.block.Len() == 0
		var err error
		if first {
			err = c.w.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: part, EndStream: f.StreamEnded(), EndHeaders: last})
		} else {
			err = c.w.WriteContinuation(id, last, part)
		}
		if first = false; last || err != nil {
			return err
		}
	}
}

func (c *sift2) data(id uint32, f *xhttp2.DataFrame) error {
	if f.StreamEnded() {
		delete(c.chosen, id)
	}
	data := f.Data()
	for len(data) > outFrame {
		if err := c.w.WriteData(id, false, data[:outFrame]); err != nil {
			return err
		}
		data = data[outFrame:]
	}
	return c.w.WriteData(id, f.StreamEnded(), data)
}

// describe2 is what a filter sees of a stream, as in [describe].
func describe2(f *xhttp2.MetaHeadersFrame) *httpfilter.Request {
	q := &httpfilter.Request{Method: f.PseudoValue("method"), Target: f.PseudoValue("path")}
	host := f.PseudoValue("authority")
	for _, h := range f.RegularFields() {
		if h.Name == "host" && host == "" {
			host = h.Value
			continue
		}
		q.Header = append(q.Header, http.CanonicalHeaderKey(h.Name)+": "+h.Value)
	}
	slices.Sort(q.Header)
	q.Header = slices.Insert(q.Header, 0, "Host: "+host)
	return q
}
