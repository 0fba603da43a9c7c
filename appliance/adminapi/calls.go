package adminapi

import (
	_ "embed"
	"net/http"
)

// Role is what a caller may do. Who may write may read.
type Role string

// The roles.
const (
	RoleRead  Role = "read"
	RoleWrite Role = "write"
)

// Allows reports whether a caller with role r may make a call that needs need.
func (r Role) Allows(need Role) bool { return r == RoleWrite || r == RoleRead && need == RoleRead }

// Media types of answers that are not one JSON document.
const (
	MediaLines   = "application/x-ndjson" // one JSON document to a line
	MediaMetrics = "text/plain"
)

// Call is one call of the API. The agent's routes and the OpenAPI document are
// made of it.
type Call struct {
	// ID names the call in the document and in metrics.
	ID           string
	Method, Path string
	Summary      string
	// IfMatch: the call needs If-Match. ETag: the answer has one.
	IfMatch, ETag bool
	Query         []Parameter
	// In and Out are values of the types of the bodies; nil for none. Line is what
	// each line of a followed answer is.
	In, Out, Line any
	// Media is the type of an answer without Out.
	Media string
	// Problems are those that this call can have besides CommonProblems.
	Problems []Kind
}

// Parameter is one of a call's query.
type Parameter struct {
	Name, Description string
	// Number: it is a whole number, else one of Values, or any text without.
	Number bool
	Values []string
}

// Role that a caller needs: to read, or to change something.
func (c *Call) Role() Role {
	if c.Method == http.MethodGet {
		return RoleRead
	}
	return RoleWrite
}

// CommonProblems can be the answer to every call.
var CommonProblems = []Kind{Unauthorized, Forbidden, TooMany, NotFound, Method, Internal}

var (
	after  = Parameter{Name: "after", Description: "only what has a higher seq", Number: true}
	dryRun = Parameter{Name: "dry_run", Description: "check the document, and answer what would be done; nothing changes", Values: []string{"true", "false"}}
	follow = Parameter{Name: "follow", Description: "go on with what comes, one document to a line, until the caller leaves", Values: []string{"true", "false"}}
)

// Calls are all calls of the API.
var Calls = []Call{
	{ID: "readStatus", Method: http.MethodGet, Path: PathStatus, Out: Status{}, Summary: "One look at the instance: what it is asked to do, what it does, and whether that is well."},
	{ID: "readConfig", Method: http.MethodGet, Path: PathConfig, Out: Config{}, ETag: true, Summary: "The desired configuration, with digests in place of secrets."},
	{
		ID: "putConfig", Method: http.MethodPut, Path: PathConfig, IfMatch: true, In: Config{}, Out: Config{}, ETag: true, Query: []Parameter{dryRun},
		Summary:  "Change the whole configuration. Answered when a proxy process runs it; if none can, the one before runs on.",
		Problems: []Kind{Body, Precondition, Stale, Conflict, InvalidConfig, ApplyFailed},
	},
	{ID: "readPhase", Method: http.MethodGet, Path: PathPhase, Out: Phase{}, ETag: true, Summary: "The phase, and the step that is prepared."},
	{
		ID: "preparePhase", Method: http.MethodPost, Path: PathPhasePrepare, IfMatch: true, In: PrepareRequest{}, Out: Phase{}, ETag: true,
		Summary:  "Prove that a step of the phase can be taken, and take a lease on it.",
		Problems: []Kind{Body, Precondition, Stale, Conflict, IllegalMove, NotReady},
	},
	{
		ID: "commitPhase", Method: http.MethodPost, Path: PathPhaseCommit, In: CommitRequest{}, Out: Phase{}, ETag: true,
		Summary:  "Take the prepared step. Committing what is committed is a success.",
		Problems: []Kind{Body, Conflict, ApplyFailed},
	},
	{
		ID: "abortPhase", Method: http.MethodPost, Path: PathPhaseAbort, In: AbortRequest{}, Out: Phase{}, ETag: true,
		Summary:  "Give the prepared step up. Aborting nothing is a success.",
		Problems: []Kind{Body, Conflict},
	},
	{
		ID: "restart", Method: http.MethodPost, Path: PathRestart, In: RestartRequest{}, Out: Status{},
		Summary:  "Replace the proxy process; the new one takes the clients over.",
		Problems: []Kind{Body, Conflict, NotReady, ApplyFailed},
	},
	{
		ID: "drain", Method: http.MethodPost, Path: PathDrain, In: DrainRequest{}, Out: Status{},
		Summary:  "Close the client port, and answer when no client is left. Draining what is drained changes nothing.",
		Problems: []Kind{Body, Conflict, NotReady, ApplyFailed},
	},
	{
		ID: "resume", Method: http.MethodPost, Path: PathResume, In: ResumeRequest{}, Out: Status{},
		Summary:  "Open the client port again. Resuming what is not drained changes nothing.",
		Problems: []Kind{Body, Conflict, ApplyFailed},
	},
	{ID: "readMarks", Method: http.MethodGet, Path: PathMarks, Out: Marks{}, ETag: true, Summary: "All marks."},
	{ID: "readMark", Method: http.MethodGet, Path: PathMark, Out: Mark{}, ETag: true, Summary: "One mark."},
	{
		ID: "putMark", Method: http.MethodPut, Path: PathMark, IfMatch: true, In: MarkRequest{}, Out: Mark{}, ETag: true,
		Summary:  "Set a mark. An equal one changes nothing.",
		Problems: []Kind{Body, Precondition, Stale, Conflict},
	},
	{
		ID: "deleteMark", Method: http.MethodDelete, Path: PathMark, IfMatch: true, Out: Marks{}, ETag: true,
		Summary:  "Remove a mark. Removing what is not there is a success.",
		Problems: []Kind{Precondition, Stale, Conflict},
	},
	{
		ID: "readEvents", Method: http.MethodGet, Path: PathEvents, Query: []Parameter{after, follow}, Out: Events{}, Line: Event{},
		Summary: "What happened lately.", Problems: []Kind{Body},
	},
	{
		ID: "readLogs", Method: http.MethodGet, Path: PathLogs, Out: Logs{}, Line: LogLine{},
		Query: []Parameter{after, follow, {Name: "tail", Description: "only that many of the last lines", Number: true},
			{Name: "source", Description: "only lines of these", Values: []string{SourceAgent, SourceProxy}}},
		Summary: "The last lines that the agent and its proxy processes wrote.", Problems: []Kind{Body},
	},
	{ID: "readOpenAPI", Method: http.MethodGet, Path: PathOpenAPI, Media: "application/json", Summary: "This document."},
	{ID: "readMetrics", Method: http.MethodGet, Path: PathMetrics, Media: MediaMetrics, Summary: "Metrics of the agent."},
	{ID: "readProxyMetrics", Method: http.MethodGet, Path: PathProxyMetrics, Media: MediaMetrics, Summary: "Metrics of the proxy process that serves.", Problems: []Kind{NotReady}},
	{ID: "readNodeMetrics", Method: http.MethodGet, Path: PathNodeMetrics, Media: MediaMetrics, Summary: "Metrics of the machine, by node_exporter.", Problems: []Kind{NotReady}},
}

// OpenAPI is the document of this API (OpenAPI 3.1).
//
//go:embed openapi.json
var OpenAPI []byte
