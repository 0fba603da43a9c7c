package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/datastax/go-cassandra-native-protocol/compression/lz4"
	"github.com/datastax/go-cassandra-native-protocol/compression/snappy"
	oracle "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"
)

func oracleCodec(c Compression) oracle.Codec {
	if c == LZ4 {
		return oracle.NewCodecWithCompression(lz4.Compressor{})
	}
	return oracle.NewCodecWithCompression(snappy.Compressor{})
}

func eachCompression(t *testing.T, f func(t *testing.T, c Compression)) {
	t.Helper()
	for _, c := range []Compression{LZ4, Snappy} {
		t.Run(c.String(), func(t *testing.T) { f(t, c) })
	}
}

func TestCompressionNamesAreThoseOfTheOption(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Compression{
		"": NoCompression, "none": NoCompression, "lz4": LZ4, "LZ4": LZ4, "snappy": Snappy, "Snappy": Snappy,
	} {
		if got, ok := ParseCompression(name); got != want || !ok {
			t.Errorf("%q: got %v, %v", name, got, ok)
		}
	}
	if c, ok := ParseCompression("deflate"); ok || c != NoCompression {
		t.Errorf("deflate: got %v, %v", c, ok)
	}
	for c, want := range map[Compression]string{NoCompression: "", LZ4: "lz4", Snappy: "snappy", 9: "compression 9"} {
		if got := c.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTheOracleReadsCompressedFrames(t *testing.T) {
	t.Parallel()
	text := "SELECT * FROM ks.t WHERE k = '" + strings.Repeat("abc", 100) + "'"
	eachCompression(t, func(t *testing.T, c Compression) {
		f := encode(t, V4, 7, &message.Query{Query: text})
		got := c.AppendCompressed([]byte("before"), f)
		wire := Frame(got[len("before"):])
		if !bytes.HasPrefix(got, []byte("before")) || wire.Flags() != FlagCompressed || len(wire) >= len(f) {
			t.Fatalf("flags %x, %d bytes of %d", wire.Flags(), len(wire), len(f))
		}
		src := bytes.NewReader(wire)
		out, err := oracleCodec(c).DecodeFrame(src)
		if err != nil || src.Len() != 0 {
			t.Fatalf("error %v, %d bytes left", err, src.Len())
		}
		if q, ok := out.Body.Message.(*message.Query); !ok || q.Query != text || out.Header.StreamId != 7 {
			t.Errorf("got %v", out)
		}
	})
}

func TestWhatTheOracleCompressesIsDecompressed(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("SELECT ", 20000)
	eachCompression(t, func(t *testing.T, c Compression) {
		for _, m := range []message.Message{&message.Query{Query: long}, &message.Query{Query: "x"}, &message.Ready{}} {
			f := oracle.NewFrame(primitive.ProtocolVersion4, 300, m)
			f.SetCompress(true)
			var b bytes.Buffer
			if err := oracleCodec(c).EncodeFrame(f, &b); err != nil {
				t.Fatal(err)
			}
			want := encode(t, V4, 300, m)
			got, err := c.AppendDecompressed([]byte("before"), b.Bytes())
			if err != nil || !bytes.Equal(got[len("before"):], want) || !bytes.HasPrefix(got, []byte("before")) {
				t.Errorf("%v: got %d bytes, want %d, error %v", m.GetOpCode(), len(got), len(want), err)
			}
		}
	})
}

func TestCompressedFramesComeBack(t *testing.T) {
	t.Parallel()
	eachCompression(t, func(t *testing.T, c Compression) {
		for _, n := range []int{0, 1, 63, 64, 65, 100, 1000, 65535, 65536, 70000, 300 << 10, 2 << 20} {
			for _, f := range []Frame{testFrame(1, n), noiseFrame(2, n)} {
				f.SetFlags(FlagTracing | FlagWarning)
				wire := Frame(c.AppendCompressed(nil, f))
				if len(wire) > len(f) || (wire.Flags()&FlagCompressed == 0) != bytes.Equal(wire, f) {
					t.Errorf("%d bytes became %d, flags %x", len(f), len(wire), wire.Flags())
				}
				if got, err := c.AppendDecompressed(nil, wire); err != nil || !bytes.Equal(got, f) {
					t.Errorf("body of %d bytes: got %d, error %v", n, len(got)-HeaderLen, err)
				}
			}
		}
		if wire := Frame(c.AppendCompressed(nil, testFrame(1, 1000))); wire.Flags()&FlagCompressed == 0 {
			t.Error("1000 bytes of a pattern are not compressed")
		}
	})
}

func TestSomeFramesStayAsTheyAre(t *testing.T) {
	t.Parallel()
	opcode := func(op Opcode) Frame { f := testFrame(1, 1000); f[4] = byte(op); return f }
	flagged := testFrame(1, 1000)
	flagged.SetFlags(FlagCompressed)
	for name, c := range map[string]struct {
		compression Compression
		f           Frame
	}{
		"none agreed on": {NoCompression, testFrame(1, 1000)},
		"STARTUP":        {LZ4, opcode(OpStartup)},
		"OPTIONS":        {Snappy, opcode(OpOptions)},
		"compressed":     {LZ4, flagged},
		"noise":          {LZ4, noiseFrame(1, 1000)},
		"more noise":     {Snappy, noiseFrame(1, 1000)},
	} {
		if got := c.compression.AppendCompressed(nil, c.f); !bytes.Equal(got, c.f) {
			t.Errorf("%s: changed", name)
		}
	}
	for c := range Snappy + 1 {
		if got, err := c.AppendDecompressed(nil, testFrame(1, 1000)); err != nil || !bytes.Equal(got, testFrame(1, 1000)) {
			t.Errorf("%v: a frame without the flag is changed, error %v", c, err)
		}
	}
}

// claiming is a frame whose compressed body claims to be n bytes.
func claiming(c Compression, n uint32, body ...byte) Frame {
	f := AppendHeader(nil, V4, false, FlagCompressed, 0x0102, OpQuery, 0)
	if c == LZ4 {
		f = binary.BigEndian.AppendUint32(f, n)
	} else {
		f = binary.AppendUvarint(f, uint64(n))
	}
	f = append(f, body...)
	PutLength(f)
	return f
}

func TestABodyThatCannotBeDecompressedIsMalformed(t *testing.T) {
	t.Parallel()
	good := testFrame(1, 1000)
	eachCompression(t, func(t *testing.T, c Compression) {
		wire := Frame(c.AppendCompressed(nil, good))
		cut := append(Frame(nil), wire[:len(wire)-1]...)
		PutLength(cut)
		dst := []byte("before")
		for name, f := range map[string]Frame{
			"empty":      AppendHeader(nil, V4, false, FlagCompressed, 1, OpQuery, 0),
			"too short":  append(AppendHeader(nil, V4, false, FlagCompressed, 1, OpQuery, 1), 0x80),
			"nothing":    claiming(c, 100),
			"too small":  claiming(c, 999, wire[HeaderLen+4:]...),
			"cut":        cut,
			"impossible": claiming(c, 100_000, make([]byte, 300)...),
			"negative":   claiming(c, 1<<32-1, make([]byte, 300)...),
		} {
			var malformed *MalformedError
			got, err := c.AppendDecompressed(dst, f)
			if !errors.As(err, &malformed) || !bytes.Equal(got, dst) {
				t.Errorf("%s: got % x, error %v", name, got, err)
			}
		}
	})
	f := testFrame(1, 1000)
	f.SetFlags(FlagCompressed)
	if _, err := NoCompression.AppendDecompressed(nil, f); err == nil {
		t.Error("a compressed body without an agreement is read")
	}
}

func TestABodyThatClaimsTooMuchIsRefusedBeforeMemoryIsTaken(t *testing.T) {
	eachCompression(t, func(t *testing.T, c Compression) {
		f := claiming(c, MaxBody+1, make([]byte, 13<<20)...)
		var got []byte
		var err error
		n := testing.AllocsPerRun(3, func() { got, err = c.AppendDecompressed(nil, f) })
		var limit *LimitError
		if !errors.As(err, &limit) || *limit != (LimitError{Limit: MaxBody, Got: MaxBody + 1, Stream: 0x0102}) || got != nil {
			t.Errorf("got %d bytes, error %v", len(got), err)
		}
		if n > 1 && !raceEnabled {
			t.Errorf("%v allocations, want that of the error alone", n)
		}
	})
}

func TestCompressionDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector drops pooled tables")
	}
	eachCompression(t, func(t *testing.T, c Compression) {
		for name, f := range map[string]Frame{
			"small": testFrame(1, 30), "pattern": testFrame(1, 900), "noise": noiseFrame(1, 900), "large": testFrame(1, 300<<10),
		} {
			wire := c.AppendCompressed(nil, f)
			var out, back []byte
			if n := testing.AllocsPerRun(50, func() {
				out = c.AppendCompressed(out[:0], f)
				back, _ = c.AppendDecompressed(back[:0], wire)
			}); n != 0 || !bytes.Equal(back, f) {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	})
}

func BenchmarkCompression(b *testing.B) {
	for _, c := range []Compression{LZ4, Snappy} {
		for name, f := range benchFrames() {
			wire := c.AppendCompressed(nil, f)
			var out []byte
			b.Run(c.String()+"/compress/"+name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(f)))
				for b.Loop() {
					out = c.AppendCompressed(out[:0], f)
				}
			})
			b.Run(c.String()+"/decompress/"+name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(f)))
				for b.Loop() {
					out, _ = c.AppendDecompressed(out[:0], wire)
				}
			})
		}
	}
}
