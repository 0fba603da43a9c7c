package virtual

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
)

func TestFunctionsOfTheTimeTellThatOfTheRequest(t *testing.T) {
	t.Parallel()
	tables := threeProxies(t, captured(t, "4.1.8"))
	before := time.Now().UnixMilli()
	s := mustParse(t, "SELECT toUnixTimestamp(now()), currentTimestamp(), cast(currentTimeUUID() AS timestamp), toTimestamp(toDate(now())), now(), now(), uuid() FROM system.local")
	body, problem := tables.Query(s, Values{}, frame.V4)
	if problem != nil {
		t.Fatal(problem.Message)
	}
	after := time.Now().UnixMilli()
	row := decode(body, primitive.ProtocolVersion4).(*message.RowsResult).Data[0]
	for i, cell := range row[:3] {
		if got := int64(binary.BigEndian.Uint64(cell)); got < before || got > after {
			t.Errorf("column %d is %d, want %d to %d", i, got, before, after)
		}
	}
	const day = int64(24 * time.Hour / time.Millisecond)
	if got := int64(binary.BigEndian.Uint64(row[3])); got != before/day*day && got != after/day*day {
		t.Errorf("the day began at %d, want %d", got, before/day*day)
	}
	if string(row[4]) == string(row[5]) {
		t.Error("two calls of now() have one value")
	}
	if row[4][6]>>4 != 1 || row[6][6]>>4 != 4 {
		t.Errorf("versions of now() and uuid() are %d and %d, want 1 and 4", row[4][6]>>4, row[6][6]>>4)
	}
}
