// Package adminapi is the appliance's admin HTTP API as types and paths: the
// contract between the agent, the client and the Terraform provider.
//
// Floor 2: a leaf; no I/O and no goroutines. Times are RFC 3339 in UTC.
package adminapi

import (
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Paths of the calls; Calls says what each takes and answers.
const (
	PathStatus       = "/v1/status"
	PathConfig       = "/v1/config"
	PathPhase        = "/v1/phase"
	PathPhasePrepare = "/v1/phase/prepare"
	PathPhaseCommit  = "/v1/phase/commit"
	PathPhaseAbort   = "/v1/phase/abort"
	PathRestart      = "/v1/restart"
	PathDrain        = "/v1/drain"
	PathResume       = "/v1/resume"
	PathMarks        = "/v1/marks"
	PathMark         = "/v1/marks/{name}"
	PathEvents       = "/v1/events"
	PathLogs         = "/v1/logs"
	PathOpenAPI      = "/v1/openapi.json"
	PathMetrics      = "/metrics"
	PathProxyMetrics = "/metrics/proxy"
	PathNodeMetrics  = "/metrics/node"
)

// DefaultPort is where an appliance serves this API.
const DefaultPort = 8443

// State of an instance.
type State string

// Locked: no configuration. Configured: the proxy runs it, with the client
// port closed, because no phase was given yet. Serving: it has a phase. Drained:
// it has one, and its client port is closed because somebody asked for that.
const (
	Locked     State = "locked"
	Configured State = "configured"
	Serving    State = "serving"
	Drained    State = "drained"
)

// Config is the whole desired configuration of one instance. Its ETag is the
// generation; PUT needs If-Match with it ("0" for an instance that has none).
type Config struct {
	// ClusterID ties the instances of one zdm_proxy_cluster together. Once set
	// it cannot be changed by PUT: 409.
	ClusterID string `json:"cluster_id"`
	// Instance is the name of this one in the cluster.
	Instance string `json:"instance"`
	// Settings are the ZDM names in lower case without ZDM_, with the text that
	// the environment variable would have.
	Settings map[string]string `json:"settings"`
	// Secrets: in PUT the values, where an omitted one keeps the stored one and
	// "" removes it; in GET a salted digest of each, never a value.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Generation is set by the agent; 0 means none. Ignored in PUT.
	Generation uint64 `json:"generation"`
	// Running is the generation that the proxy runs; it differs from Generation
	// only while a change is being applied.
	Running uint64 `json:"running"`
	// Applied says in the answer to PUT what was done, or with dry_run would be.
	// Ignored in PUT, and not in the answer to GET.
	Applied Applied `json:"applied,omitempty"`
}

// Applied is how a configuration is put into force.
type Applied string

// Unchanged: it was in force already, and nothing was touched. Replaced: a new
// proxy process took the clients over. Hot: the running process took it.
const (
	Unchanged Applied = "unchanged"
	Replaced  Applied = "replaced"
	Hot       Applied = "hot"
)

// Phase is the phase document. Its ETag is the epoch.
type Phase struct {
	Phase    phase.Phase `json:"phase"`
	Since    time.Time   `json:"since,omitzero"`
	Previous phase.Phase `json:"previous,omitempty"`
	// Epoch grows by one with each commit.
	Epoch uint64 `json:"epoch"`
	// Prepared is the step that was prepared and neither committed nor aborted.
	Prepared *Prepared `json:"prepared,omitempty"`
}

// Prepared is a phase step under a lease.
type Prepared struct {
	Phase   phase.Phase `json:"phase"`
	Token   string      `json:"token"`
	Expires time.Time   `json:"expires"`
}

// PrepareRequest asks whether the step may be taken; it proves what the phase
// needs and changes nothing but the lease. It needs If-Match with the epoch.
type PrepareRequest struct {
	Phase phase.Phase `json:"phase"`
	// ForceReason allows the two moves that lose something.
	ForceReason string `json:"force_reason,omitempty"`
	// LeaseSeconds is how long the step stays prepared: 1 to 600, 0 means 60.
	// While it lasts nobody else can prepare: 409.
	LeaseSeconds int `json:"lease_seconds,omitempty"`
}

// CommitRequest takes the prepared step.
type CommitRequest struct {
	Token string `json:"token"`
}

// AbortRequest gives the lease back. Aborting nothing is a success.
type AbortRequest struct {
	Token string `json:"token"`
}

// RestartRequest replaces the proxy process.
type RestartRequest struct {
	Reason string `json:"reason,omitempty"`
}

// DrainRequest closes the client port: no new clients, answers for what is in
// flight, and each client is closed between two requests. A proxy process with
// its port closed stays connected to the clusters, so that phases and
// configurations can be changed, and resuming takes no time.
type DrainRequest struct {
	Reason string `json:"reason,omitempty"`
	// UntilReboot ends the drain with the next start of the machine. Otherwise it
	// lasts until it is resumed, over restarts and reboots.
	UntilReboot bool `json:"until_reboot,omitempty"`
}

// ResumeRequest opens the client port again.
type ResumeRequest struct {
	Reason string `json:"reason,omitempty"`
}

// Drain says why the client port is closed.
type Drain struct {
	Since       time.Time `json:"since"`
	Reason      string    `json:"reason,omitempty"`
	Caller      string    `json:"caller"`
	UntilReboot bool      `json:"until_reboot,omitempty"`
}

// Names of marks that mean something to phases and gates. Any other name is the
// caller's own.
const (
	// MarkBackfillDone: the rows from before dual writes are on Target. It is
	// removed when the instance goes back to origin_only, since Target then misses
	// writes.
	MarkBackfillDone = "backfill-done"
	// MarkWritesCleanSince: failed writes from before its time have been looked
	// into, and need not hold anybody up.
	MarkWritesCleanSince = "writes-clean-since"
)

// Bounds of marks.
const (
	MaxMarks      = 64
	MaxMarkName   = 63 // and it is lower case letters, digits and hyphens, beginning with a letter
	MaxMarkAuthor = 128
	MaxReason     = 1024 // of every free text, in bytes
)

// Mark is a named fact that somebody stands for. Its ETag is its revision.
type Mark struct {
	Name string `json:"name"`
	// Author stands for it, Time is since when it holds.
	Author string    `json:"author"`
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
	// Recorded is when the agent was told, and Caller by whom.
	Recorded time.Time `json:"recorded"`
	Caller   string    `json:"caller"`
	// Revision is that of Marks when this one was set.
	Revision uint64 `json:"revision"`
}

// MarkRequest sets a mark. PUT needs If-Match with its revision, "0" if there is
// none yet.
type MarkRequest struct {
	// Author is the caller if left out.
	Author string `json:"author,omitempty"`
	// Time may not be in the future. Left out, it is now, or that of the mark that
	// has the same author and reason already.
	Time   time.Time `json:"time,omitzero"`
	Reason string    `json:"reason"`
}

// Marks are all marks, by name. Their ETag is the revision, which grows with
// each change of any.
type Marks struct {
	Revision uint64 `json:"revision"`
	Marks    []Mark `json:"marks"`
}

// Status is one look at an instance.
type Status struct {
	State     State     `json:"state"`
	ClusterID string    `json:"cluster_id,omitempty"`
	Instance  string    `json:"instance,omitempty"`
	Version   string    `json:"version"`
	Started   time.Time `json:"started"`
	// Generation wanted, and the one that the proxy runs.
	Generation uint64 `json:"generation"`
	Running    uint64 `json:"running"`
	Phase      Phase  `json:"phase"`
	// Drain is nil unless the instance is drained.
	Drain *Drain `json:"drain,omitempty"`
	// Marks by name.
	Marks []Mark `json:"marks,omitempty"`
	// Ready: the proxy runs what is wanted and has what its phase needs.
	Ready    bool     `json:"ready"`
	NotReady []string `json:"not_ready,omitempty"`
	// Proxy is the serving process's own status; nil while none runs.
	Proxy *control.Status `json:"proxy,omitempty"`
	// Recent is what went through the proxy lately.
	Recent Recent `json:"recent"`
	// Restarts counts proxy processes that ended without being asked to.
	Restarts int `json:"restarts"`
	// Child is the last lines that the last crashed process wrote.
	Child  []string `json:"last_output,omitempty"`
	Errors []Event  `json:"last_errors,omitempty"`
}

// Recent adds up what the proxy processes of an instance have counted, also
// those that have ended.
type Recent struct {
	// WatchedSince is from when on the agent knows of everything; what failed before
	// is not told.
	WatchedSince time.Time `json:"watched_since"`
	// WindowSeconds is how far the counts look back: five minutes, or less after a
	// start of the agent. When something last failed is told whenever it was.
	WindowSeconds int `json:"window_seconds"`
	// Requests and Failures of clients.
	Requests uint64          `json:"requests"`
	Failures uint64          `json:"failures"`
	Origin   control.Traffic `json:"origin"`
	Target   control.Traffic `json:"target"`
}

// EventKind is what an event is about.
type EventKind string

// The kinds of events.
const (
	EventConfig  EventKind = "config"
	EventPhase   EventKind = "phase"
	EventProcess EventKind = "process"
	EventDrain   EventKind = "drain"
	EventMark    EventKind = "mark"
	EventAccess  EventKind = "access"
	EventError   EventKind = "error"
)

// EventKinds are all of them.
var EventKinds = []EventKind{EventConfig, EventPhase, EventProcess, EventDrain, EventMark, EventAccess, EventError}

// Event is one thing that happened. The last ones are kept, over restarts of the
// agent too. Numbers grow, and have gaps after a restart.
type Event struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Kind EventKind `json:"kind"`
	Text string    `json:"text"`
}

// Events is a page of the ring; Oldest tells what is still there. Followed, the
// answer is one Event to a line instead, without an end.
type Events struct {
	Oldest uint64  `json:"oldest"`
	Events []Event `json:"events"`
}

// SourceAgent is the source of the agent's own log lines; those of a proxy
// process have the process's name, which begins with SourceProxy.
const (
	SourceAgent = "agent"
	SourceProxy = "proxy"
)

// LogLine is one line of output, of the agent or of a proxy process. The last
// ones are kept in memory.
type LogLine struct {
	Seq uint64 `json:"seq"`
	// Time is when the agent read it.
	Time   time.Time `json:"time"`
	Source string    `json:"source"`
	Text   string    `json:"text"`
}

// Logs is a page of the last lines. Followed, the answer is one LogLine to a
// line instead, without an end.
type Logs struct {
	Oldest uint64    `json:"oldest"`
	Lines  []LogLine `json:"lines"`
}
