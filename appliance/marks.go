package appliance

import (
	"slices"
	"strings"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/appliance/store"
)

func marksOf(v *view) adminapi.Marks {
	out := adminapi.Marks{Revision: v.rec.MarksRevision, Marks: make([]adminapi.Mark, len(v.rec.Marks))}
	for i, m := range v.rec.Marks {
		out.Marks[i] = adminapi.Mark(m)
	}
	return out
}

// nowMarks is Marks as the owner sees it now.
func (a *Agent) nowMarks() adminapi.Marks {
	a.publish()
	return a.Marks()
}

func (a *Agent) mark(name string) (store.Mark, bool) {
	i := slices.IndexFunc(a.rec.Marks, func(m store.Mark) bool { return m.Name == name })
	if i < 0 {
		return store.Mark{}, false
	}
	return a.rec.Marks[i], true
}

func withoutMark(marks []store.Mark, name string) []store.Mark {
	return slices.DeleteFunc(slices.Clone(marks), func(m store.Mark) bool { return m.Name == name })
}

func (a *Agent) putMark(name string, in adminapi.MarkRequest, ifMatch uint64, caller string, answer reply[adminapi.Mark]) {
	now := a.o.Now().UTC()
	if in.Author == "" {
		in.Author = caller
	}
	before, known := a.mark(name)
	same := known && before.Author == in.Author && before.Reason == in.Reason
	if same && (in.Time.IsZero() || in.Time.Equal(before.Time)) {
		answer(adminapi.Mark(before), nil)
		return
	}
	switch {
	case ifMatch != before.Revision:
		answer.refuse(adminapi.NewProblem(adminapi.Stale, "the revision of mark %s is %d, the request was for %d; read it again and decide anew", name, before.Revision, ifMatch))
		return
	case in.Time.After(now):
		answer.refuse(adminapi.NewProblem(adminapi.Body, "time: %s is in the future; leave it out for now, and look at both clocks", in.Time.UTC().Format("2006-01-02 15:04:05 MST")))
		return
	case !known && len(a.rec.Marks) >= adminapi.MaxMarks:
		answer.refuse(adminapi.NewProblem(adminapi.Conflict, "there are %d marks already; remove one that is not needed any more", adminapi.MaxMarks))
		return
	}
	if in.Time.IsZero() {
		in.Time = now
	}
	rec := a.rec
	rec.MarksRevision++
	mark := store.Mark{Name: name, Author: in.Author, Time: in.Time.UTC(), Reason: in.Reason, Recorded: now, Caller: caller, Revision: rec.MarksRevision}
	rec.Marks = append(withoutMark(rec.Marks, name), mark)
	slices.SortFunc(rec.Marks, func(a, b store.Mark) int { return strings.Compare(a.Name, b.Name) })
	if err := a.save(rec); err != nil {
		answer.refuse(err)
		return
	}
	a.note(adminapi.EventMark, "mark %s is set by %s%s", name, in.Author, because(in.Reason))
	a.publish()
	answer(adminapi.Mark(mark), nil)
}

func (a *Agent) deleteMark(name string, ifMatch uint64, answer reply[adminapi.Marks]) {
	before, known := a.mark(name)
	switch {
	case !known:
		answer(a.nowMarks(), nil)
		return
	case ifMatch != before.Revision:
		answer.refuse(adminapi.NewProblem(adminapi.Stale, "the revision of mark %s is %d, the request was for %d; read it again and decide anew", name, before.Revision, ifMatch))
		return
	}
	rec := a.rec
	rec.Marks = withoutMark(rec.Marks, name)
	rec.MarksRevision++
	if err := a.save(rec); err != nil {
		answer.refuse(err)
		return
	}
	a.note(adminapi.EventMark, "mark %s is removed", name)
	answer(a.nowMarks(), nil)
}
