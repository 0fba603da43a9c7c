// Package control is what the agent and a proxy process say to each other.
//
// Floor 2: types and paths only; no I/O and no goroutines. The server side is
// in cmd/zdm-proxy, the client side in package appliance. The exchange is HTTP
// with JSON bodies over one unix socket (mode 0600) for each proxy process; an
// error is an appliance-independent Error body with a status of 4xx or 5xx.
//
// The life of a proxy process under an agent:
//
//	idle --PUT config--> connecting --both needed control connections--> ready
//	ready --POST phase, POST serve--> serving --POST drain--> draining --> exit 0
//
// A process takes one configuration in its life. A new configuration, or a new
// binary, is a new process that takes the listening sockets over. The exception:
// PUT of one that differs in nothing but settings that package config calls hot
// is taken by a process that has one; 409 otherwise, and nothing has changed.
package control

import (
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Paths of the calls.
const (
	PathStatus       = "/status"        // GET -> Status
	PathMetrics      = "/metrics"       // GET -> the metrics as Prometheus reads them
	PathConfig       = "/config"        // PUT Config -> Status; 422 with Error.Problems
	PathPhasePrepare = "/phase/prepare" // POST Phase -> 204; 409 with the proof that failed
	PathPhase        = "/phase"         // POST Phase -> Status; takes effect before the answer
	PathServe        = "/serve"         // POST Serve -> Status; the client port is open when it answers
	PathDrain        = "/drain"         // POST Drain -> Status; answers at once, the process ends by itself
	PathHandover     = "/handover"      // POST with Upgrade: zdm-handover, from the new process to the old one
	PathSessions     = "/sessions"      // POST with Upgrade: zdm-sessions, from the old process to the new one
)

// HandoverProtocol is the Upgrade token of PathHandover. After the 101 the new
// process sends one byte, and the old one answers with one SCM_RIGHTS message:
// a JSON Handover as payload and one descriptor for each of its Listeners. The
// old process goes on accepting until it is told to drain, so no connection is
// refused in between.
const HandoverProtocol = "zdm-handover"

// Handover names the descriptors that come with it, in order.
type Handover struct {
	Listeners []Listener `json:"listeners"`
}

// Listener is one listening socket.
type Listener struct {
	// Purpose is "cql" or "http".
	Purpose string `json:"purpose"`
	Address string `json:"address"`
}

// SessionsProtocol is the Upgrade token of PathSessions, by which a draining
// process moves its clients' sockets to its successor. After the 101 the old
// process sends Messages, each as a 4-byte big-endian length and JSON; a
// descriptor comes with the first byte of one that has a Session. The new
// process answers each with one byte: MessageTaken, or MessageRefused, after
// which the old one still owns the socket. The first message has Statements and
// Warm, and is answered when the new process has the connections that Warm
// needs.
const SessionsProtocol = "zdm-sessions"

// The answers to a Message.
const (
	MessageTaken   byte = 'y'
	MessageRefused byte = 'n'
)

// WarmTimeout is how long a process that takes over may open connections before
// the first client moves, if nobody says how long.
const WarmTimeout = 15 * time.Second

// Message is one step of SessionsProtocol.
type Message struct {
	// Statements that were prepared since the message before.
	Statements []Statement `json:"statements,omitempty"`
	// Warm are the kinds of sessions that will come, as far as the clusters see them:
	// what is the client's alone (Driver, Compression, Unread) is empty.
	Warm []Session `json:"warm,omitempty"`
	// WarmWithin bounds the wait for their connections. Clients move after it,
	// connected or not: a request waits for what is not open yet. 0 is
	// WarmTimeout.
	WarmWithin time.Duration `json:"warm_within_ns,omitempty"`
	// Timestamp is the greatest that the old process has given to a write: those of
	// the new one are greater. 0 if it gives none.
	Timestamp int64 `json:"timestamp,omitempty"`
	// Waiting, by side, are the schema events that only that side has sent so far,
	// oldest first: the new process may not have been there when they came. In the
	// first message.
	Waiting [2][][]byte `json:"waiting,omitzero"`
	// Session is the client whose socket comes with the message.
	Session *Session `json:"session,omitempty"`
}

// Session is what a client session is besides its socket. It holds passwords:
// it goes over a socket of mode 0600, and is never logged or stored.
type Session struct {
	// Handshake is how far it is; before Established it has no keyspace or logins.
	Handshake Handshake `json:"handshake"`
	Version   uint8     `json:"version"`
	Driver    string    `json:"driver,omitempty"`
	// Compression as STARTUP named it.
	Compression string `json:"compression,omitempty"`
	Keyspace    string `json:"keyspace,omitempty"`
	// Logins by side: origin, target.
	Logins [2]Login `json:"logins"`
	// Events and StatusEvents: it has registered for those of the schema, and of
	// the status of proxies.
	Events       bool `json:"events,omitempty"`
	StatusEvents bool `json:"status_events,omitempty"`
	// Unread is what was read from the socket and not handled: the beginning of a
	// frame that had not arrived in full.
	Unread []byte `json:"unread,omitempty"`
}

// Handshake is how far a session's handshake is.
type Handshake uint8

// The steps: before STARTUP, between AUTHENTICATE and AUTH_RESPONSE, after it.
const (
	Fresh Handshake = iota
	Authenticating
	Established
)

// Login is what a session uses on a side: the user that is configured for it, as
// the process that takes over has it, or a login of the client's own.
type Login struct {
	// Configured: Username and Password are empty.
	Configured bool `json:"configured,omitempty"`

	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// Statement is one prepared statement as clients know it.
type Statement struct {
	ID       []byte `json:"id"`
	Text     string `json:"text"`
	Keyspace string `json:"keyspace,omitempty"`
	// NodeText is what the sides have prepared instead of Text; empty for Text
	// itself. HiddenNames are those of the bind markers that it has more, in order;
	// an empty one cannot be told from another.
	NodeText    string   `json:"node_text,omitempty"`
	HiddenNames []string `json:"hidden_names,omitempty"`
	// Told is the digest of the result metadata that its clients decode with; all
	// zero if not all of them decode with the same.
	Told []byte `json:"told,omitempty"`
	// ToldResultID is the id that went with them (v5, DSE_V2).
	ToldResultID []byte `json:"told_result_id,omitempty"`
	// Sides is what each side answered; a nil ID for one that was not asked.
	Sides [2]Prepared `json:"sides"`
	// Own: the proxy itself answers it.
	Own bool `json:"own,omitempty"`
}

// Prepared is a side's answer to PREPARE.
type Prepared struct {
	ID           []byte `json:"id,omitempty"`
	ResultID     []byte `json:"result_id,omitempty"` // of the result metadata (v5, DSE_V2)
	ResultDigest []byte `json:"result_digest,omitempty"`
}

// State of a proxy process.
type State string

// The states, in the order of a life.
const (
	Idle       State = "idle"
	Connecting State = "connecting"
	Ready      State = "ready"
	Serving    State = "serving"
	Draining   State = "draining"
)

// Config is the one configuration of a process. Settings are the names of
// package config in lower case with the text that the environment variable
// would have; Secrets likewise, apart so that nothing prints them by accident.
type Config struct {
	Generation uint64            `json:"generation"`
	Settings   map[string]string `json:"settings"`
	Secrets    map[string]string `json:"secrets"`
}

// Phase asks for a phase. Epoch grows with each change that the agent commits;
// a lower one than the process has seen is refused.
type Phase struct {
	Phase phase.Phase `json:"phase"`
	Epoch uint64      `json:"epoch"`
}

// Serve tells the process to open its ports: taken over from the process whose
// control socket is TakeOver, or bound anew if that is empty.
type Serve struct {
	TakeOver string `json:"take_over,omitempty"`
}

// Drain tells the process to stop reading clients, answer what is in flight,
// and end. With a Successor the clients are not closed: their sockets move to the
// process with that control socket, by SessionsProtocol. Deadline bounds all of it,
// which begins with the successor's opening of connections; 0 means the request
// time-out and a second, and WarmTimeout more with a Successor.
type Drain struct {
	Successor string        `json:"successor,omitempty"`
	Deadline  time.Duration `json:"deadline_ns,omitempty"`
}

// Status is what a process tells of itself.
type Status struct {
	PID        int         `json:"pid"`
	Version    string      `json:"version"`
	State      State       `json:"state"`
	Generation uint64      `json:"generation"`
	Phase      phase.Phase `json:"phase"`
	PhaseSince time.Time   `json:"phase_since,omitzero"`
	Epoch      uint64      `json:"epoch"`
	// Ready: the sides that the phase needs (or, without a phase, that the
	// configuration needs) have their control connection. NotReady says why not.
	Ready    bool     `json:"ready"`
	NotReady []string `json:"not_ready,omitempty"`
	// ListenAddress is the bound client address; "" while the port is closed.
	ListenAddress string `json:"listen_address,omitempty"`
	Clients       int    `json:"clients"`
	InFlight      int    `json:"in_flight"`
	// Requests and Failures count client requests since the process started;
	// a failure is one that the proxy, not a cluster, answered with an error,
	// or that one cluster answered with an error of its own making.
	Requests uint64  `json:"requests"`
	Failures uint64  `json:"failures"`
	Origin   Cluster `json:"origin"`
	Target   Cluster `json:"target"`
	// Drivers are the clients of now by what their drivers say of themselves.
	Drivers []Driver `json:"drivers,omitempty"`
	Errors  []Fault  `json:"last_errors,omitempty"`
}

// Driver is the clients that use one version of a driver. What does not say has
// no name.
type Driver struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Clients int    `json:"clients"`
}

// Cluster is a side as its control connection sees it.
type Cluster struct {
	Connected      bool      `json:"connected"`
	Since          time.Time `json:"since,omitzero"`
	Node           string    `json:"node,omitempty"`
	ClusterName    string    `json:"cluster_name,omitempty"`
	ReleaseVersion string    `json:"release_version,omitempty"`
	Datacenter     string    `json:"datacenter,omitempty"`
	SchemaVersion  string    `json:"schema_version,omitempty"`
	Nodes          int       `json:"nodes"`
	NodesUp        int       `json:"nodes_up"`
	// LastError is why it is not connected, or why it last was not.
	LastError string `json:"last_error,omitempty"`
	// Clock is how the clock of Node stood when it was last asked; nil while that
	// is not known.
	Clock *Clock `json:"clock,omitempty"`
	// Traffic is what went to the side's nodes.
	Traffic Traffic `json:"traffic"`
}

// Traffic counts the requests of a side since the process started.
type Traffic struct {
	// Reads and Writes were answered by its nodes, well or not, for clients that
	// wait for them.
	Reads  uint64 `json:"reads"`
	Writes uint64 `json:"writes"`
	// FailedReads and FailedWrites are requests of clients that failed because of
	// this side, perhaps of the other one too.
	FailedReads  uint64 `json:"failed_reads"`
	FailedWrites uint64 `json:"failed_writes"`
	// Copies are reads that no client waits for.
	Copies       uint64 `json:"copies"`
	FailedCopies uint64 `json:"failed_copies"`
	// When a write, or a copy, last failed.
	LastFailedWrite time.Time `json:"last_failed_write,omitzero"`
	LastFailedCopy  time.Time `json:"last_failed_copy,omitzero"`
}

// Clock compares the clock of a node with that of the proxy's machine.
type Clock struct {
	// AheadSeconds is the node's time less the proxy's. The truth is within
	// UncertaintySeconds of it, either way.
	AheadSeconds       float64   `json:"ahead_seconds"`
	UncertaintySeconds float64   `json:"uncertainty_seconds"`
	Node               string    `json:"node"`
	Measured           time.Time `json:"measured"`
}

// Fault is one thing that went wrong, with when.
type Fault struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// Error is the body of an answer that is not a success.
type Error struct {
	Text string `json:"error"`
	// Problems of a configuration, each with the setting's name first.
	Problems []string `json:"problems,omitempty"`
}

func (e *Error) Error() string {
	text := e.Text
	for _, p := range e.Problems {
		text += "\n  " + p
	}
	return text
}
