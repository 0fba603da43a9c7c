// Package recent keeps what happened lately on an instance: events, which
// survive a restart of the agent, and lines of output, which do not. Each is a
// bounded ring with growing numbers that can be read and followed.
//
// Floor 3. It knows what events and lines look like and nothing of what they are
// about. All of it is safe for concurrent use, and has no goroutines.
package recent
