package names

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Parts of a DNS message (RFC 1035, section 4.1).
const (
	headerSize = 12

	flagResponse  = 0x8000
	flagTruncated = 0x0200
	flagRecursion = 0x0100 // desired
	flagAvailable = 0x0080 // recursion available
	maskOpcode    = 0x7800
	maskRcode     = 0x000f

	rcodeOK       = 0
	rcodeServFail = 2
	rcodeNXDomain = 3

	typeSOA  = 6
	typeAAAA = 28
	typeOPT  = 41 // EDNS (RFC 6891); its "TTL" holds flags
)

var errMessage = errors.New("malformed DNS message")

// question is the one question of a query.
type question struct {
	// end is the offset behind it.
	end   int
	qtype uint16
}

// parseQuery finds the question of a standard query that has exactly one. Others are
// legal but so rare that they go to the target unexamined.
func parseQuery(m []byte) (question, error) {
	if len(m) < headerSize {
		return question{}, errMessage
	}
	flags := binary.BigEndian.Uint16(m[2:])
	if flags&(flagResponse|maskOpcode) != 0 || binary.BigEndian.Uint16(m[4:]) != 1 {
		return question{}, errMessage
	}
	end, err := skipName(m, headerSize)
	if err != nil || end+4 > len(m) {
		return question{}, errMessage
	}
	return question{end: end + 4, qtype: binary.BigEndian.Uint16(m[end:])}, nil
}

// skipName returns the offset behind the name at off. It does not follow pointers.
func skipName(m []byte, off int) (int, error) {
	for off < len(m) {
		l := int(m[off])
		switch {
		case l == 0:
			return off + 1, nil
		case l >= 0xc0:
			if off+2 > len(m) {
				return 0, errMessage
			}
			return off + 2, nil
		case l >= 0x40:
			return 0, errMessage
		}
		off += 1 + l
	}
	return 0, errMessage
}

// reply builds an answer without records to a query that parseQuery accepted.
func reply(query []byte, q question, rcode uint16) []byte {
	m := append([]byte(nil), query[:q.end]...)
	flags := binary.BigEndian.Uint16(query[2:])
	binary.BigEndian.PutUint16(m[2:], flagResponse|flagAvailable|flags&flagRecursion|rcode)
	binary.BigEndian.PutUint64(m[4:], 1<<48) // one question, no records
	return m
}

// answer is what a response says about its own life.
type answer struct {
	// ttl in seconds that every part of it may be kept; 0 is not at all.
	ttl uint32
	// ttls are the offsets of the records' TTLs.
	ttls []int
}

// parseAnswer examines a response to the query, whose question it must repeat. A response
// that may not be kept has a ttl of 0: truncated, failed, or negative without the SOA
// record that says for how long (RFC 2308, section 5).
func parseAnswer(m, query []byte, q question) (answer, error) {
	if len(m) < q.end || binary.BigEndian.Uint16(m[4:]) != 1 {
		return answer{}, errMessage
	}
	if !sameQuestion(m[headerSize:q.end], query[headerSize:q.end]) {
		return answer{}, errMessage
	}
	flags := binary.BigEndian.Uint16(m[2:])
	if flags&flagResponse == 0 {
		return answer{}, errMessage
	}
	answers, authority := int(binary.BigEndian.Uint16(m[6:])), int(binary.BigEndian.Uint16(m[8:]))
	records := answers + authority + int(binary.BigEndian.Uint16(m[10:]))
	a := answer{ttl: ^uint32(0)}
	off, soa := q.end, false
	for i := range records {
		end, err := skipName(m, off)
		if err != nil || end+10 > len(m) {
			return answer{}, errMessage
		}
		rtype, ttl := binary.BigEndian.Uint16(m[end:]), binary.BigEndian.Uint32(m[end+4:])
		off = end + 10 + int(binary.BigEndian.Uint16(m[end+8:]))
		if off > len(m) {
			return answer{}, errMessage
		}
		if rtype == typeOPT {
			continue
		}
		if rtype == typeSOA && i >= answers && i < answers+authority {
			soa = true
			if off-end >= 10+4 {
				// The negative TTL is the smaller of the record's and its last field.
				ttl = min(ttl, binary.BigEndian.Uint32(m[off-4:]))
			}
		}
		a.ttl = min(a.ttl, ttl)
		a.ttls = append(a.ttls, end+4)
	}
	rcode := flags & maskRcode
	positive := rcode == rcodeOK && answers > 0
	negative := (rcode == rcodeOK || rcode == rcodeNXDomain) && soa
	if flags&flagTruncated != 0 || !positive && !negative {
		a.ttl = 0
	}
	return a, nil
}

// sameQuestion compares two questions of equal length; case means nothing in their names
// (RFC 4343). The lengths of labels are below the letters.
func sameQuestion(a, b []byte) bool {
	name := len(a) - 4
	return slices.EqualFunc(a[:name], b[:name], func(x, y byte) bool { return lower(x) == lower(y) }) &&
		slices.Equal(a[name:], b[name:])
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
