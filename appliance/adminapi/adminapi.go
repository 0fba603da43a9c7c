// Package adminapi is the appliance's admin HTTP API as types and paths: the
// contract between the agent, the client and the Terraform provider.
//
// Floor 2: a leaf; no I/O and no goroutines. Times are RFC 3339 in UTC.
package adminapi

import (
	"fmt"
	"strings"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Paths of the calls.
const (
	PathStatus       = "/v1/status"        // GET -> Status
	PathConfig       = "/v1/config"        // GET -> Config; PUT Config -> Config
	PathPhase        = "/v1/phase"         // GET -> Phase
	PathPhasePrepare = "/v1/phase/prepare" // POST PrepareRequest -> Phase
	PathPhaseCommit  = "/v1/phase/commit"  // POST CommitRequest -> Phase
	PathPhaseAbort   = "/v1/phase/abort"   // POST AbortRequest -> Phase
	PathRestart      = "/v1/restart"       // POST RestartRequest -> Status
	PathEvents       = "/v1/events"        // GET ?after=SEQ -> Events
)

// ProblemType is the media type of errors (RFC 9457).
const ProblemType = "application/problem+json"

// DefaultPort is where an appliance serves this API.
const DefaultPort = 8443

// State of an instance.
type State string

// Locked: no configuration. Configured: the proxy runs it, with the client
// port closed, because no phase was given yet. Serving: it has a phase.
const (
	Locked     State = "locked"
	Configured State = "configured"
	Serving    State = "serving"
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
}

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
	// Ready: the proxy runs what is wanted and has what its phase needs.
	Ready    bool     `json:"ready"`
	NotReady []string `json:"not_ready,omitempty"`
	// Proxy is the serving process's own status; nil while none runs.
	Proxy *control.Status `json:"proxy,omitempty"`
	// Restarts counts proxy processes that ended without being asked to.
	Restarts int `json:"restarts"`
	// Child is the last lines that the last crashed process wrote.
	Child  []string `json:"last_output,omitempty"`
	Errors []Event  `json:"last_errors,omitempty"`
}

// Event is one thing that happened, from a bounded ring.
type Event struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	// Kind is a closed set: config, phase, process, auth, error.
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// Events is a page of the ring; Oldest tells what is still there.
type Events struct {
	Oldest uint64  `json:"oldest"`
	Events []Event `json:"events"`
}

// Problem is an error of the API (RFC 9457). Errors are told by Type:
// unauthorized, not-found, method, body, invalid-config, precondition
// (If-Match missing, 428), stale (412), conflict (409), illegal-move (409),
// not-ready (409), apply-failed (502), internal (500).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Detail says what is wrong, and ends with the next thing to try.
	Detail string `json:"detail"`
	// Problems of a configuration, each beginning with the setting's name.
	Problems []string `json:"problems,omitempty"`
}

func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", p.Title, p.Detail)
	for _, line := range p.Problems {
		b.WriteString("\n  " + line)
	}
	return b.String()
}
