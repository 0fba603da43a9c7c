package frame

import (
	"encoding/binary"
	"fmt"
)

// Opcode is the kind of a message (spec section 2.4).
type Opcode byte

// The opcodes.
const (
	OpError         Opcode = 0x00
	OpStartup       Opcode = 0x01
	OpReady         Opcode = 0x02
	OpAuthenticate  Opcode = 0x03
	OpOptions       Opcode = 0x05
	OpSupported     Opcode = 0x06
	OpQuery         Opcode = 0x07
	OpResult        Opcode = 0x08
	OpPrepare       Opcode = 0x09
	OpExecute       Opcode = 0x0A
	OpRegister      Opcode = 0x0B
	OpEvent         Opcode = 0x0C
	OpBatch         Opcode = 0x0D
	OpAuthChallenge Opcode = 0x0E
	OpAuthResponse  Opcode = 0x0F
	OpAuthSuccess   Opcode = 0x10
	OpDSERevise     Opcode = 0xFF // DSE: cancel or extend continuous paging
)

var opcodeNames = [...]string{
	OpError: "ERROR", OpStartup: "STARTUP", OpReady: "READY", OpAuthenticate: "AUTHENTICATE",
	OpOptions: "OPTIONS", OpSupported: "SUPPORTED", OpQuery: "QUERY", OpResult: "RESULT",
	OpPrepare: "PREPARE", OpExecute: "EXECUTE", OpRegister: "REGISTER", OpEvent: "EVENT",
	OpBatch: "BATCH", OpAuthChallenge: "AUTH_CHALLENGE", OpAuthResponse: "AUTH_RESPONSE",
	OpAuthSuccess: "AUTH_SUCCESS",
}

func (o Opcode) String() string {
	if int(o) < len(opcodeNames) && opcodeNames[o] != "" {
		return opcodeNames[o]
	}
	if o == OpDSERevise {
		return "REVISE_REQUEST"
	}
	return fmt.Sprintf("opcode 0x%02X", byte(o))
}

// Version is the protocol version without the direction bit.
type Version byte

// The versions whose frames this package reads. v1 and v2 have another header.
const (
	V3   Version = 0x03
	V4   Version = 0x04
	V5   Version = 0x05
	DSE1 Version = 0x41
	DSE2 Version = 0x42
)

// Known reports whether frames of v have the layout that this package reads.
func (v Version) Known() bool {
	switch v {
	case V3, V4, V5, DSE1, DSE2:
		return true
	}
	return false
}

func (v Version) String() string {
	switch v {
	case DSE1:
		return "DSE_V1"
	case DSE2:
		return "DSE_V2"
	}
	return fmt.Sprintf("v%d", byte(v))
}

// The DSE versions are v4 with some of what later came into v5.
func (v Version) hasIntFlags() bool         { return v == V5 || v == DSE1 || v == DSE2 }
func (v Version) hasReasonMap() bool        { return v == V5 || v == DSE1 || v == DSE2 }
func (v Version) hasKeyspace() bool         { return v == V5 || v == DSE2 }
func (v Version) hasResultMetadataID() bool { return v == V5 || v == DSE2 }
func (v Version) hasPrepareFlags() bool     { return v == V5 || v == DSE2 }
func (v Version) isDSE() bool               { return v == DSE1 || v == DSE2 }

// responseBit marks the version byte of a frame that a server sent.
const responseBit = 0x80

// Flags of a frame (spec section 2.2).
const (
	FlagCompressed    byte = 0x01
	FlagTracing       byte = 0x02
	FlagCustomPayload byte = 0x04
	FlagWarning       byte = 0x08
	FlagBeta          byte = 0x10
)

// HeaderLen is the length of the header since v3:
//
//	offset 0  1 byte   version, with 0x80 for a response
//	offset 1  1 byte   flags
//	offset 2  2 bytes  stream id, big endian
//	offset 4  1 byte   opcode
//	offset 5  4 bytes  length of the body, big endian
const HeaderLen = 9

// MaxBody is the largest body that is read: the specification's bound.
const MaxBody = 256 << 20

// Frame is one whole frame: header and body. Its methods panic on less than a
// header; a Reader returns nothing shorter.
type Frame []byte

// Version is the version without the direction bit.
func (f Frame) Version() Version { return Version(f[0] &^ responseBit) }

// IsResponse reports whether a server sent the frame.
func (f Frame) IsResponse() bool { return f[0]&responseBit != 0 }

// Flags returns the header's flags.
func (f Frame) Flags() byte { return f[1] }

// SetFlags replaces them.
func (f Frame) SetFlags(flags byte) { f[1] = flags }

// Stream is the stream id; a server's own are negative.
func (f Frame) Stream() int16 { return int16(binary.BigEndian.Uint16(f[2:])) }

// SetStream replaces it.
func (f Frame) SetStream(id int16) { binary.BigEndian.PutUint16(f[2:], uint16(id)) }

// Opcode is the kind of the message.
func (f Frame) Opcode() Opcode { return Opcode(f[4]) }

// Body is what follows the header.
func (f Frame) Body() []byte { return f[HeaderLen:] }

// AppendHeader appends a header. A caller that does not know the length of the
// body yet gives 0, and calls PutLength with the frame in the end.
func AppendHeader(dst []byte, v Version, response bool, flags byte, stream int16, op Opcode, bodyLen int) []byte {
	first := byte(v)
	if response {
		first |= responseBit
	}
	dst = append(dst, first, flags, byte(uint16(stream)>>8), byte(stream), byte(op))
	return binary.BigEndian.AppendUint32(dst, uint32(bodyLen))
}

// PutLength sets the length in the header of f to that of its body.
func PutLength(f []byte) {
	binary.BigEndian.PutUint32(f[5:], uint32(len(f)-HeaderLen))
}

// LimitError says that a frame is larger than the Reader takes. Nothing of its
// body was waited for; the connection must be closed.
type LimitError struct {
	Limit, Got int
	Stream     int16 // of the frame, so that it can be answered
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("frame body %d bytes exceeds limit %d", e.Got, e.Limit)
}

// VersionError says that a frame has a version whose layout is not known, so
// that its length is not to be trusted. The connection answers with a version
// that it has, and closes.
type VersionError struct {
	Got    byte  // without the direction bit
	Stream int16 // 0 if the connection ended before it
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("protocol version %d is not known", e.Got)
}

// MalformedError says that a body is not what its opcode and version promise.
type MalformedError struct {
	What   string // what was being read
	Offset int    // where it begins, in the body
}

func (e *MalformedError) Error() string {
	return fmt.Sprintf("malformed %s at byte %d of the body", e.What, e.Offset)
}
