package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/zdmproject/terraform-provider-zdm/appliance/adminapi"
)

// maxLine bounds one document of an answer that is followed.
const maxLine = 64 << 10

// FollowEvents calls each for every event after the given sequence number, those
// that are there and those that come. It returns with each's error, with ctx's,
// or with an *UnreachableError when the instance ends the answer.
func (c *Client) FollowEvents(ctx context.Context, after uint64, each func(adminapi.Event) error) error {
	q := url.Values{"follow": {"true"}, "after": {strconv.FormatUint(after, 10)}}
	return follow(ctx, c, adminapi.PathEvents+"?"+q.Encode(), each)
}

// FollowLogs does so for lines of output.
func (c *Client) FollowLogs(ctx context.Context, f LogFilter, each func(adminapi.LogLine) error) error {
	q := f.query()
	q.Set("follow", "true")
	return follow(ctx, c, adminapi.PathLogs+"?"+q.Encode(), each)
}

// follow has no bound in time: the instance sends an empty line now and then, so
// the connection breaks when it is gone.
func follow[T any](ctx context.Context, c *Client, path string, each func(T) error) error {
	resp, err := c.send(ctx, 0, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			return fmt.Errorf("GET %s%s: a line is not what this version understands (%w); compare the versions of both", c.name, path, err)
		}
		if err := each(v); err != nil {
			return err
		}
	}
	err = lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("GET %s%s: a line is longer than %d bytes; is this an appliance's admin API?", c.name, path, maxLine)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = io.EOF
	}
	return unreachable(c.name, http.MethodGet, path, 0, err)
}
