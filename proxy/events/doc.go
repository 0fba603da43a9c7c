// Package events says which events clients get, and when: schema events once both
// sides have the change, and status events of this proxy only.
//
// Floor 2: pure. It reads and writes the bodies of events, and knows neither
// sessions nor connections; who calls it says what time it is. No goroutines, and
// no locks: a Pairs has one owner at a time.
package events
