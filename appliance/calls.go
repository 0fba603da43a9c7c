package appliance

import (
	"context"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

// reply ends an operation. It is called once.
type reply[T any] func(T, error)

// refuse ends it with an error.
func (r reply[T]) refuse(err error) {
	var none T
	r(none, err)
}

// do runs an operation in the owner and waits for its answer. If ctx ends
// before, the operation goes on without being waited for.
func do[T any](ctx context.Context, a *Agent, operate func(reply[T])) (T, error) {
	type answer struct {
		body T
		err  error
	}
	answers := make(chan answer, 1)
	var none T
	select {
	case a.operations <- func() { operate(func(body T, err error) { answers <- answer{body, err} }) }:
	case <-a.stopped:
		return none, adminapi.NewProblem(adminapi.Conflict, "the agent is ending; try again when it has been started again")
	case <-ctx.Done():
		return none, ctx.Err()
	}
	select {
	case r := <-answers:
		return r.body, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// The calls of the admin API. Errors are problems of the API, a *config.Error, a
// *phase.MoveError, or the agent's own. They are safe for concurrent use, and
// answered while Serve runs.

// Config is the document that is being applied, or runs.
func (a *Agent) Config() adminapi.Config { return configOf(a.view.Load()) }

// PutConfig changes the configuration if its generation is etag.
func (a *Agent) PutConfig(ctx context.Context, in adminapi.Config, etag uint64) (adminapi.Config, error) {
	return do(ctx, a, func(r reply[adminapi.Config]) { a.putConfig(in, etag, r) })
}

// CheckConfig is what PutConfig would answer, as far as that can be told without
// starting a process.
func (a *Agent) CheckConfig(ctx context.Context, in adminapi.Config, etag uint64) (adminapi.Config, error) {
	return do(ctx, a, func(r reply[adminapi.Config]) { a.checkConfig(in, etag, r) })
}

// Phase is the phase and the step that is prepared.
func (a *Agent) Phase() adminapi.Phase { return phaseOf(a.view.Load(), a.o.Now()) }

// Prepare proves a step and takes a lease on it, if the epoch is etag.
func (a *Agent) Prepare(ctx context.Context, in adminapi.PrepareRequest, etag uint64) (adminapi.Phase, error) {
	return do(ctx, a, func(r reply[adminapi.Phase]) { a.prepareStep(in, etag, r) })
}

// Commit takes the prepared step.
func (a *Agent) Commit(ctx context.Context, token string) (adminapi.Phase, error) {
	return do(ctx, a, func(r reply[adminapi.Phase]) { a.commitStep(token, r) })
}

// Abort gives the prepared step up.
func (a *Agent) Abort(ctx context.Context, token string) (adminapi.Phase, error) {
	return do(ctx, a, func(r reply[adminapi.Phase]) { a.abortStep(token, r) })
}

// Restart replaces the proxy process.
func (a *Agent) Restart(ctx context.Context, in adminapi.RestartRequest) (adminapi.Status, error) {
	return a.thenStatus(ctx, func(r reply[struct{}]) { a.restart(in.Reason, r) })
}

// Drain closes the client port, and returns when no client is left.
func (a *Agent) Drain(ctx context.Context, in adminapi.DrainRequest, caller string) (adminapi.Status, error) {
	return a.thenStatus(ctx, func(r reply[struct{}]) { a.drain(in, caller, r) })
}

// Resume opens the client port again.
func (a *Agent) Resume(ctx context.Context, in adminapi.ResumeRequest) (adminapi.Status, error) {
	return a.thenStatus(ctx, func(r reply[struct{}]) { a.resume(in, r) })
}

func (a *Agent) thenStatus(ctx context.Context, operate func(reply[struct{}])) (adminapi.Status, error) {
	if _, err := do(ctx, a, operate); err != nil {
		return adminapi.Status{}, err
	}
	return a.Status(ctx), nil
}

// Marks are all marks.
func (a *Agent) Marks() adminapi.Marks { return marksOf(a.view.Load()) }

// PutMark sets a mark if its revision is etag.
func (a *Agent) PutMark(ctx context.Context, name string, in adminapi.MarkRequest, etag uint64, caller string) (adminapi.Mark, error) {
	return do(ctx, a, func(r reply[adminapi.Mark]) { a.putMark(name, in, etag, caller, r) })
}

// DeleteMark removes a mark if its revision is etag.
func (a *Agent) DeleteMark(ctx context.Context, name string, etag uint64) (adminapi.Marks, error) {
	return do(ctx, a, func(r reply[adminapi.Marks]) { a.deleteMark(name, etag, r) })
}

// Stopped is closed when the agent takes no more calls.
func (a *Agent) Stopped() <-chan struct{} { return a.stopped }
