// Package archtest holds the repository to its own rules: who may import whom,
// how long a file and how big a package may be, and what every package says of
// itself. The rules are tables in its tests; a change of the architecture is a
// change of a row, with its reason.
//
// For tests only: nothing imports it. It reads source and runs nothing.
package archtest
