package demo

import (
	"context"
	"errors"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
)

// statusOf returns the call for the agent's GET /v1/status.
func statusOf(*lab.Appliance) (func(context.Context) (*adminapi.Status, error), error) {
	return nil, errors.New("the agents' status is not there yet")
}

// variables are those of the example, but for the phase.
func variables(*lab.Lab) (map[string]string, error) { return nil, nil }
