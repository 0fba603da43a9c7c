// Package rewrite replaces calls of functions that differ from call to call, so
// that both clusters store the same value: now() above all.
//
// In a QUERY and in the text of a BATCH child the call becomes a literal. In a
// PREPARE it becomes a bind marker, which the answer hides from the client, and
// which EXECUTE and BATCH fill. Within a list, set or map no marker can be: a
// statement with a call there is prepared as it is, and executed as text.
//
// It also puts the ids of a side into prepared requests whose length they change.
//
// Floor 2: it edits texts and frames that it is handed, and knows no connections,
// sessions or phases. A Rule is a value; a Source may be used from any goroutine.
// It starts none.
package rewrite
