package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Document is one generation of the configuration. It is immutable once it is
// in a Record.
type Document struct {
	Generation uint64
	ClusterID  string
	Instance   string
	Settings   map[string]string
	Secrets    map[string]secret.String
}

// Equal compares everything but the generation.
func (d *Document) Equal(o *Document) bool {
	if d == nil || o == nil {
		return d == o
	}
	return d.ClusterID == o.ClusterID && d.Instance == o.Instance && maps.Equal(d.Settings, o.Settings) &&
		maps.EqualFunc(d.Secrets, o.Secrets, secret.String.Equal)
}

// Phase is the phase that was committed last, and the step that is prepared.
type Phase struct {
	Phase    phase.Phase `json:"phase"`
	Previous phase.Phase `json:"previous"`
	Since    time.Time   `json:"since"`
	Epoch    uint64      `json:"epoch"`
	// Token is that of the commit, so that to commit again is a success.
	Token    string    `json:"token,omitempty"`
	Prepared *Prepared `json:"prepared,omitempty"`
}

// Prepared is a step under a lease.
type Prepared struct {
	Phase   phase.Phase `json:"phase"`
	Token   string      `json:"token"`
	Expires time.Time   `json:"expires"`
	Reason  string      `json:"reason,omitempty"`
}

// Drain is why the client port is closed. BootID is that of the machine's start in
// which it was.
type Drain struct {
	Since       time.Time `json:"since"`
	Reason      string    `json:"reason,omitempty"`
	Caller      string    `json:"caller"`
	UntilReboot bool      `json:"until_reboot,omitempty"`
	BootID      string    `json:"boot_id,omitempty"`
}

// Mark is a named fact that somebody stands for.
type Mark struct {
	Name     string    `json:"name"`
	Author   string    `json:"author"`
	Time     time.Time `json:"time"`
	Reason   string    `json:"reason"`
	Recorded time.Time `json:"recorded"`
	Caller   string    `json:"caller"`
	Revision uint64    `json:"revision"`
}

// Record is everything that is kept. It is a value: what it points to is
// immutable, so a copy with a field changed is the next record.
type Record struct {
	// Salt is that of the digests of secrets; made by Open, never changed.
	Salt string
	// LastGeneration is the highest that was ever given out; a generation that
	// failed is not used again, so that its ETag names nothing else.
	LastGeneration uint64
	// Committed is what runs; nil for a locked instance. Wanted is what is being
	// applied; nil otherwise.
	Committed *Document
	Wanted    *Document
	Phase     Phase
	// Drain is nil unless the client port is to be closed.
	Drain *Drain
	// Marks by name, and a number that grows with each change of any.
	Marks         []Mark
	MarksRevision uint64
	// EventSequence is above every event's number that was given out.
	EventSequence uint64
}

// The shape on disk, which alone shows secrets.
type (
	diskRecord struct {
		Salt           string        `json:"salt"`
		LastGeneration uint64        `json:"last_generation"`
		Committed      *diskDocument `json:"committed,omitempty"`
		Wanted         *diskDocument `json:"wanted,omitempty"`
		Phase          Phase         `json:"phase"`
		Drain          *Drain        `json:"drain,omitempty"`
		Marks          []Mark        `json:"marks,omitempty"`
		MarksRevision  uint64        `json:"marks_revision,omitempty"`
		EventSequence  uint64        `json:"event_sequence"`
	}
	diskDocument struct {
		Generation uint64            `json:"generation"`
		ClusterID  string            `json:"cluster_id"`
		Instance   string            `json:"instance"`
		Settings   map[string]string `json:"settings"`
		Secrets    map[string]string `json:"secrets,omitempty"`
	}
)

func toDisk(d *Document) *diskDocument {
	if d == nil {
		return nil
	}
	out := &diskDocument{Generation: d.Generation, ClusterID: d.ClusterID, Instance: d.Instance, Settings: d.Settings, Secrets: map[string]string{}}
	for k, v := range d.Secrets {
		out.Secrets[k] = v.Reveal()
	}
	return out
}

func fromDisk(d *diskDocument) *Document {
	if d == nil {
		return nil
	}
	out := &Document{Generation: d.Generation, ClusterID: d.ClusterID, Instance: d.Instance, Settings: d.Settings, Secrets: map[string]secret.String{}}
	if out.Settings == nil {
		out.Settings = map[string]string{}
	}
	for k, v := range d.Secrets {
		out.Secrets[k] = secret.New(v)
	}
	return out
}

// header is the first line of a file; the body follows it to the end. The
// number behind the name is the format: an older agent refuses a newer one.
const header = "zdm-appliance-record 1 sha256=%x length=%d\n"

func encode(r Record) ([]byte, error) {
	body, err := json.MarshalIndent(diskRecord{r.Salt, r.LastGeneration, toDisk(r.Committed), toDisk(r.Wanted), r.Phase, r.Drain, r.Marks, r.MarksRevision, r.EventSequence}, "", " ")
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	return append(fmt.Appendf(nil, header, sha256.Sum256(body), len(body)), body...), nil
}

func decode(b []byte) (Record, error) {
	_, body, found := bytes.Cut(b, []byte{'\n'})
	if !found {
		return Record{}, fmt.Errorf("it has no header")
	}
	// The header is compared with the one that the body would get, so nothing of
	// a damaged file is interpreted.
	if want := fmt.Sprintf(header, sha256.Sum256(body), len(body)); string(b[:len(b)-len(body)]) != want {
		if !bytes.HasPrefix(b, []byte(header[:len("zdm-appliance-record 1 ")])) {
			return Record{}, fmt.Errorf("it is of another format than this version writes")
		}
		return Record{}, fmt.Errorf("checksum or length is wrong")
	}
	var d diskRecord
	if err := json.Unmarshal(body, &d); err != nil {
		return Record{}, fmt.Errorf("it does not decode, though its checksum is right")
	}
	return Record{d.Salt, d.LastGeneration, fromDisk(d.Committed), fromDisk(d.Wanted), d.Phase, d.Drain, d.Marks, d.MarksRevision, d.EventSequence}, nil
}
