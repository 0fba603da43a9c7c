package rollout

// Goal is what one instance has to become, and how far it is.
type Goal struct {
	Name string
	// Configure: its document differs from the wanted one. Restart: its proxy
	// process must be replaced. Both false: it only has to stay well.
	Configure, Restart bool

	// Touched: the change was made, and the instance has to become well. Then
	// Generation is what it must run (0: any), and OldPID the process that must
	// be gone (0: any).
	Touched    bool
	Generation uint64
	OldPID     int
}

func (g *Goal) pending() bool { return !g.Touched && (g.Configure || g.Restart) }

// NextRoll returns the next action of a configuration change or a rolling
// restart: Put, Restart, Wait, Done or Stop. Goals are taken in their order,
// but for one thing: an instance that serves nobody anyway goes first, since
// nothing is lost by touching it and it may be the cure. A well instance is
// touched only while all others are well.
func NextRoll(goals []Goal, views map[string]View) Action {
	for i := range goals {
		if g := &goals[i]; g.Touched {
			if a := settled(g, views[g.Name]); a.Kind != Done {
				return a
			}
		}
	}
	pick := pickGoal(goals, views)
	if pick == nil {
		return Action{Kind: Done}
	}
	v := views[pick.Name]
	if Hopeless(v.Err) {
		return stop(pick.Name, "%v", v.Err)
	}
	if v.Err != nil {
		return wait(pick.Name, "does not answer: %v", v.Err)
	}
	if ok, _ := well(v); ok {
		for i := range goals {
			g := &goals[i]
			if ok, why := well(views[g.Name]); g != pick && !ok {
				if Hopeless(views[g.Name].Err) {
					return stop(g.Name, "%v", views[g.Name].Err)
				}
				return wait(g.Name, "%s; %s is left alone until it is well", why, pick.Name)
			}
		}
	}
	if pick.Configure {
		return Action{Kind: Put, Instance: pick.Name}
	}
	return Action{Kind: Restart, Instance: pick.Name}
}

// pickGoal chooses which pending instance is next; nil if none is pending.
func pickGoal(goals []Goal, views map[string]View) *Goal {
	var first, unwell, silent *Goal
	for i := range goals {
		g := &goals[i]
		if !g.pending() {
			continue
		}
		if first == nil {
			first = g
		}
		v := views[g.Name]
		ok, _ := well(v)
		switch {
		case ok:
		case v.Err != nil && silent == nil:
			silent = g
		case v.Err == nil && unwell == nil:
			unwell = g
		}
	}
	switch {
	case unwell != nil:
		return unwell
	case silent != nil:
		return silent
	}
	return first
}

// settled is Done once a touched instance runs what it was given.
func settled(g *Goal, v View) Action {
	switch ok, why := well(v); {
	case Hopeless(v.Err):
		return stop(g.Name, "%v", v.Err)
	case v.Err == nil && g.Generation != 0 && v.Status.Generation > g.Generation:
		return stop(g.Name, "has generation %d, and this run made %d: somebody else changed it meanwhile; plan again", v.Status.Generation, g.Generation)
	case v.Err == nil && g.Generation != 0 && v.Status.Running != g.Generation:
		return wait(g.Name, "runs generation %d, not yet %d", v.Status.Running, g.Generation)
	case !ok:
		return wait(g.Name, "%s", why)
	case g.OldPID != 0 && v.Status.Proxy != nil && v.Status.Proxy.PID == g.OldPID:
		return wait(g.Name, "still runs process %d, which was to be replaced", g.OldPID)
	}
	return Action{Kind: Done}
}
