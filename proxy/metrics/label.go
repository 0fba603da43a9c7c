package metrics

import (
	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/cql/scan"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// Type is a kind of client request, as the label "type" tells it.
type Type uint8

// The kinds.
const (
	ReadsOrigin Type = iota
	ReadsTarget
	Writes
	types
)

var typeNames = [types]string{"reads_origin", "reads_target", "writes"}

// TypeOf is the kind of a request by who answers it.
func TypeOf(write bool, answer phase.Side) Type {
	switch {
	case write:
		return Writes
	case answer == phase.Target:
		return ReadsTarget
	}
	return ReadsOrigin
}

// Request is a kind of frame, as the label "kind" tells it.
type Request uint8

// The kinds.
const (
	Query Request = iota
	Execute
	Batch
	requests
)

var requestNames = [requests]string{"query", "execute", "batch"}

// RequestOf is the kind of an EXECUTE or BATCH, and Query for all others.
func RequestOf(op frame.Opcode) Request {
	switch op {
	case frame.OpExecute:
		return Execute
	case frame.OpBatch:
		return Batch
	}
	return Query
}

// Statement is what a request does, as the label "statement" tells it.
type Statement uint8

// The statements. Conditional (LWT) and Counter come before what they are else.
const (
	Other Statement = iota // what cannot be read, TRUNCATE, schema, roles, DESCRIBE
	Select
	Insert
	Update
	Delete
	Batches
	Conditional
	Counter
	statements
)

var statementNames = [statements]string{"other", "select", "insert", "update", "delete", "batch", "lwt", "counter"}

// StatementOf is the label of a statement that was scanned.
func StatementOf(kind scan.Kind, cas, counter bool) Statement {
	switch {
	case cas:
		return Conditional
	case counter:
		return Counter
	}
	switch kind {
	case scan.Select:
		return Select
	case scan.Insert:
		return Insert
	case scan.Update:
		return Update
	case scan.Delete:
		return Delete
	case scan.Batch:
		return Batches
	}
	return Other
}

// phases is one more than the last phase, so that phases index an array.
const phases = phase.TargetOnly + 1

// Limit is a bound that refuses clients or requests, as the label "limit" tells it.
type Limit uint8

// The limits.
const (
	Clients        Limit = iota // proxy_max_client_connections
	ClientRequests              // proxy_max_stream_ids
	NodeRequests                // stream ids and output of a node connection
	ClientOutput                // bytes that wait for a client, which is closed
	ClientBytes                 // proxy_max_client_bytes: the client is not read
	Memory                      // proxy_max_memory_bytes: the client is not read
	UpstreamPools               // upstream_max_pools
	LoginTime                   // proxy_login_timeout_ms: the client is closed
	FrameTime                   // proxy_frame_timeout_ms: the client is closed
	limits
)

var limitNames = [limits]string{"clients", "client_requests", "node_requests", "client_output",
	"client_bytes", "memory", "pools", "login_time", "frame_time"}

// Failure is an error of a node, as the label "error" tells it in ZDM's words.
type Failure uint8

// The failures.
const (
	NoAnswer Failure = iota // in time
	ReadTimeout
	ReadFailure
	WriteTimeout
	WriteFailure
	Overloaded
	Unavailable
	Unprepared
	OtherFailure
	failures
)

var failureNames = [failures]string{"client_timeout", "read_timeout", "read_failure", "write_timeout", "write_failure",
	"overloaded", "unavailable", "unprepared", "other"}

// FailureOf is the label of an error code.
func FailureOf(code frame.ErrorCode) Failure {
	switch code {
	case frame.ErrReadTimeout:
		return ReadTimeout
	case frame.ErrReadFailure:
		return ReadFailure
	case frame.ErrWriteTimeout:
		return WriteTimeout
	case frame.ErrWriteFailure:
		return WriteFailure
	case frame.ErrOverloaded:
		return Overloaded
	case frame.ErrUnavailable:
		return Unavailable
	case frame.ErrUnprepared:
		return Unprepared
	}
	return OtherFailure
}
