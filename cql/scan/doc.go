// Package scan says what a CQL statement is: its kind, its table, and what
// matters to one who sends it twice or to two clusters.
//
// Floor 1. It reads tokens, and no grammar: a server judges whether a statement
// is right. It knows nothing of phases, sessions or schemas, so where only the
// schema could tell (a counter, a list), it says what might be. It starts no
// goroutine, keeps no state and does not allocate.
//
// What a server of another make might understand must never be taken for a read
// here: only SELECT is one, and only as the first word. Everything else that is
// not known is Other, which is to be treated as a write.
package scan
