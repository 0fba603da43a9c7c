package lab

// Mark is an environment entry that makes a process one of the lab's, and the
// children that inherit it: Down and Purge end them, should whoever started
// them have been killed.
func (l *Lab) Mark() string { return ownerVariable + "=" + l.Dir }
