// Package store keeps what an instance must not forget: its configuration, the
// one being applied, its phase and the step that is prepared.
//
// All of it is one Record, and each change writes the whole Record as a new
// numbered file: header with checksum, temporary name, fsync, rename, fsync of
// the folder. A kill at any moment leaves the last good file, and a file that is
// damaged later is passed over for the one before it, which Open reports. A
// record before is at most one step behind: the configuration that ran before
// the last change, or the phase before the last step, which is adjacent.
//
// Files are 0600 and hold the secrets of the configuration: the proxy must be
// started with them after a reboot, when nobody is there to give them.
//
// Floor 3. It knows phases and documents, but not what they mean to a proxy; no
// network and no goroutines. A Store is used by one goroutine at a time.
package store
