package rewrite

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
)

// functions are what can be replaced. They return the same as Cassandra 4.1 and
// 5.0: a value of its own for each call, times in UTC, timestamps and dates of
// milliseconds, now() the same as currentTimeUUID().
var functions = [...]struct {
	name, newName string
	function      scan.Functions
	returns       string
	// fits are the protocol's types of what it may be assigned to: its own, and
	// those that Cassandra takes its value for.
	fits []uint16
}{
	{"now", "now", scan.Now, "timeuuid", []uint16{typeTimeUUID, typeUUID, typeBlob}},
	{"currenttimeuuid", "current_timeuuid", scan.CurrentTimeUUID, "timeuuid", []uint16{typeTimeUUID, typeUUID, typeBlob}},
	{"uuid", "uuid", scan.NewUUID, "uuid", []uint16{typeUUID, typeBlob}},
	{"currenttimestamp", "current_timestamp", scan.CurrentTimestamp, "timestamp", []uint16{typeTimestamp, typeBigint, typeBlob}},
	{"currentdate", "current_date", scan.CurrentDate, "date", []uint16{typeDate, typeBlob}},
	{"currenttime", "current_time", scan.CurrentTime, "time", []uint16{typeTime, typeBlob}},
}

// The [option] ids of the protocol, section 6 of the specification.
const (
	typeCustom    = 0x00
	typeBigint    = 0x02
	typeBlob      = 0x03
	typeTimestamp = 0x0B
	typeUUID      = 0x0C
	typeTimeUUID  = 0x0F
	typeDate      = 0x11
	typeTime      = 0x12
)

// typeName is the CQL type that a function returns.
func typeName(f scan.Functions) string {
	for i := range functions {
		if functions[i].function == f {
			return functions[i].returns
		}
	}
	return ""
}

// fits reports whether the function's value can be that of a variable.
func fits(f scan.Functions, option uint16) bool {
	for i := range functions {
		if functions[i].function != f {
			continue
		}
		for _, t := range functions[i].fits {
			if t == option {
				return true
			}
		}
	}
	return option == typeCustom
}

// Source makes values.
type Source struct {
	clock func() time.Time
	// node and sequence are the last eight bytes of its time UUIDs: random, since
	// several proxies may share a machine.
	node [8]byte
	last atomic.Int64 // the time of the last time UUID, which none has again
}

// NewSource returns a source that reads clock.
func NewSource(clock func() time.Time) *Source {
	s := &Source{clock: clock}
	_, _ = rand.Read(s.node[:])       // never fails
	s.node[0] = s.node[0]&0x3F | 0x80 // the variant of RFC 9562
	s.node[2] |= 0x01                 // no card's address: multicast
	return s
}

// gregorian is the time UUIDs' epoch, 15 October 1582, before Unix's in 100 ns.
const gregorian = 0x01B21DD213814000

func (s *Source) timeUUID() (u [16]byte) {
	t := s.clock().UnixNano()/100 + gregorian
	for {
		last := s.last.Load()
		t = max(t, last+1)
		if s.last.CompareAndSwap(last, t) {
			break
		}
	}
	binary.BigEndian.PutUint32(u[:], uint32(t))
	binary.BigEndian.PutUint16(u[4:], uint16(t>>32))
	binary.BigEndian.PutUint16(u[6:], uint16(t>>48)&0x0FFF|0x1000) // version 1
	copy(u[8:], s.node[:])
	return u
}

func randomUUID() (u [16]byte) {
	_, _ = rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0F | 0x40
	u[8] = u[8]&0x3F | 0x80
	return u
}

const (
	day       = 24 * time.Hour
	dateShift = 1 << 31 // of the day 0 in a date
)

// Value returns a new value of a function as the protocol has it, without its
// length.
func (s *Source) Value(f scan.Functions) []byte { return s.appendValue(nil, f) }

// appendValue appends a value as the protocol has it, without its length.
func (s *Source) appendValue(dst []byte, f scan.Functions) []byte {
	switch f {
	case scan.NewUUID:
		u := randomUUID()
		return append(dst, u[:]...)
	case scan.CurrentTimestamp:
		return binary.BigEndian.AppendUint64(dst, uint64(s.clock().UnixMilli()))
	case scan.CurrentDate:
		return binary.BigEndian.AppendUint32(dst, uint32(s.clock().Unix()/int64(day/time.Second)+dateShift))
	case scan.CurrentTime:
		return binary.BigEndian.AppendUint64(dst, uint64(s.clock().UnixNano()%int64(day)))
	}
	u := s.timeUUID()
	return append(dst, u[:]...)
}

// appendLiteral appends a value as CQL. Those that could be taken for another
// type are cast to their own wherever they are.
func (s *Source) appendLiteral(dst []byte, f scan.Functions, cast bool) []byte {
	isUUID := f == scan.Now || f == scan.CurrentTimeUUID || f == scan.NewUUID
	if cast || !isUUID {
		dst = append(append(append(dst, '('), typeName(f)...), ')')
	}
	switch f {
	case scan.CurrentTimestamp:
		return strconv.AppendInt(dst, s.clock().UnixMilli(), 10)
	case scan.CurrentDate:
		return s.clock().UTC().AppendFormat(dst, "'2006-01-02'")
	case scan.CurrentTime:
		return s.clock().UTC().AppendFormat(dst, "'15:04:05.000000000'")
	case scan.NewUUID:
		return appendUUID(dst, randomUUID())
	}
	return appendUUID(dst, s.timeUUID())
}

func appendUUID(dst []byte, u [16]byte) []byte {
	for i, part := range [][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, part)
	}
	return dst
}
