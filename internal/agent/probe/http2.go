package probe

import (
	"bytes"

	"golang.org/x/net/http2/hpack"
)

// preface is how every client begins HTTP/2 (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Frames (RFC 9113, sections 4.1 and 6) as far as they matter here.
const (
	frameHeaderLen = 9
	// maxFrame is the longest payload before anything else is agreed.
	maxFrame = 1 << 14

	frameData         = 0
	frameHeaders      = 1
	frameSettings     = 4
	frameContinuation = 9

	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Bounds of HPACK (RFC 7541): the table that a decoder has before anything else is agreed,
// and the longest string.
const (
	hpackTable  = 4096
	hpackString = 8192
)

// http2Judge follows a client's frames to the user agent of its first request, and to the
// acknowledgement of our settings.
type http2Judge struct {
	off      int  // of the first frame not seen
	settings bool // the client's first SETTINGS frame has come
	nudged   bool // we have sent ours
	ack      int  // where the client's acknowledgement is, or 0

	verdict verdict
	dec     *hpack.Decoder
	within  uint32 // the stream whose header block goes on
}

// next looks at the frames that have become complete. It goes on after the verdict, because
// an acknowledgement may still come.
func (h *http2Judge) next(b []byte) verdict {
	if h.off == 0 {
		if len(b) < len(preface) {
			return undecided
		}
		h.off = len(preface)
	}
	for len(b) >= h.off+frameHeaderLen {
		head := b[h.off : h.off+frameHeaderLen]
		length := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		if length > maxFrame {
			return h.settle(no)
		}
		end := h.off + frameHeaderLen + length
		if len(b) < end {
			break
		}
		stream := uint32(head[5]&0x7f)<<24 | uint32(head[6])<<16 | uint32(head[7])<<8 | uint32(head[8])
		h.frame(head[3], head[4], stream, b[h.off+frameHeaderLen:end])
		h.off = end
	}
	return h.verdict
}

func (h *http2Judge) frame(typ, flags byte, stream uint32, payload []byte) {
	switch {
	case typ == frameSettings && flags&flagAck != 0:
		if h.nudged && h.ack == 0 && len(payload) == 0 {
			h.ack = h.off
		}
	case !h.settings:
		h.settings = typ == frameSettings
		if !h.settings {
			h.settle(no)
		}
	case h.verdict != undecided:
	case h.within != 0:
		if typ != frameContinuation || stream != h.within {
			h.settle(no)
			return
		}
		h.block(flags, payload)
	case typ == frameHeaders && stream != 0:
		h.within = stream
		payload, ok := fragment(flags, payload)
		if !ok {
			h.settle(no)
			return
		}
		h.dec = hpack.NewDecoder(hpackTable, h.field)
		h.dec.SetMaxStringLength(hpackString)
		h.block(flags, payload)
	case typ == frameData || typ == frameHeaders || typ == frameContinuation:
		h.settle(no)
	}
}

// fragment takes the padding and the priority off a HEADERS payload.
func fragment(flags byte, p []byte) ([]byte, bool) {
	pad := 0
	if flags&flagPadded != 0 {
		if len(p) == 0 {
			return nil, false
		}
		pad, p = int(p[0]), p[1:]
	}
	if flags&flagPriority != 0 {
		if len(p) < 5 {
			return nil, false
		}
		p = p[5:]
	}
	if pad > len(p) {
		return nil, false
	}
	return p[:len(p)-pad], true
}

// block decodes a part of the first request's header block; field gets what is in it.
func (h *http2Judge) block(flags byte, p []byte) {
	// The decoder keeps what is incomplete, and we have to keep p for later.
	_, err := h.dec.Write(bytes.Clone(p))
	if err == nil && flags&flagEndHeaders != 0 {
		err = h.dec.Close()
	}
	if err != nil || flags&flagEndHeaders != 0 {
		h.settle(no)
	}
}

func (h *http2Judge) field(f hpack.HeaderField) {
	if f.Name == "user-agent" {
		h.settle(judgeAgent(f.Value))
	}
}

// settle gives the verdict, if none is given yet.
func (h *http2Judge) settle(v verdict) verdict {
	if h.verdict == undecided {
		h.verdict = v
	}
	return h.verdict
}
