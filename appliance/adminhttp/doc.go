// Package adminhttp serves an agent's admin API over HTTP: who may call, what a
// request must look like, and what the audit log says of it. What a call does is
// the agent's.
//
// Floor 4, above package appliance. Goroutines: those of net/http; an answer that
// is followed ends with its caller, or with the agent.
package adminhttp
