package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"strconv"
	"strings"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

// readPage is the page size of a read of a bucket: three pages for a full one.
const readPage = 7

// Endpoint is a cluster, or the proxies in front of two.
type Endpoint struct {
	// Hosts are addresses, without a port.
	Hosts []string
	Port  int
	// Username and password of the application; "" logs in without.
	Username string
	Password secret.String
	// Keyspace of the session; "" uses none.
	Keyspace string
	// Protocol forces a version of the protocol; 0 lets the driver negotiate.
	Protocol int
	// Reconnect is how often the driver looks for a host that it has lost; 0
	// leaves it at the driver's minute.
	Reconnect time.Duration
	// Log gets what the driver says; nil drops it.
	Log io.Writer
	// Meter counts requests by host; nil counts none.
	Meter *Meter
}

// Connect opens a session with the driver's ordinary settings: unless the
// endpoint asks for more, nothing is set but where to go and who one is.
func Connect(e Endpoint) (*gocql.Session, error) {
	hosts := make([]string, len(e.Hosts))
	for i, h := range e.Hosts {
		hosts[i] = net.JoinHostPort(h, strconv.Itoa(e.Port))
	}
	cluster := gocql.NewCluster(hosts...)
	cluster.Port = e.Port
	cluster.Keyspace = e.Keyspace
	cluster.ProtoVersion = e.Protocol
	if e.Username != "" {
		cluster.Authenticator = gocql.PasswordAuthenticator{Username: e.Username, Password: e.Password.Reveal()}
	}
	if e.Reconnect != 0 {
		cluster.ReconnectInterval = e.Reconnect
	}
	if e.Log != nil {
		cluster.Logger = driverLog{log.New(e.Log, "driver ", log.LstdFlags|log.Lmicroseconds)}
	}
	if e.Meter != nil {
		cluster.QueryObserver, cluster.BatchObserver = e.Meter, e.Meter
	}
	session, err := cluster.CreateSession()
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w; see with zdm-lab status whether it serves: a proxy does once it has a phase", strings.Join(hosts, ", "), err)
	}
	return session, nil
}

// driverLog writes the driver's warnings and errors.
type driverLog struct{ out *log.Logger }

func (d driverLog) Error(msg string, fields ...gocql.LogField)   { d.line("error", msg, fields) }
func (d driverLog) Warning(msg string, fields ...gocql.LogField) { d.line("warning", msg, fields) }
func (d driverLog) Info(msg string, fields ...gocql.LogField)    { d.line("info", msg, fields) }
func (d driverLog) Debug(string, ...gocql.LogField)              {}

func (d driverLog) line(level, msg string, fields []gocql.LogField) {
	var b strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&b, " %s=%s", f.Name, f.Value.String())
	}
	d.out.Printf("%s: %s%s", level, msg, b.String())
}

// CQL is a Client over a session that has the keyspace of Setup.
type CQL struct{ session *gocql.Session }

// NewCQL returns the client; the session stays the caller's to close.
func NewCQL(session *gocql.Session) *CQL { return &CQL{session} }

// The statements, with the literals of a simple one in the place of the marks.
// A simple statement begins with a comment, since the driver prepares whatever
// begins with a word like INSERT, and applications tag statements like this.
const (
	insertItem   = "INSERT INTO item (bucket, slot, version, value) VALUES (?, ?, ?, ?)"
	updateItem   = "UPDATE item SET version = ?, value = ? WHERE bucket = ? AND slot = ?"
	deleteItem   = "DELETE FROM item WHERE bucket = ? AND slot = ?"
	selectItem   = "SELECT slot, version, value FROM item WHERE bucket = ? AND slot = ?"
	selectBucket = "SELECT slot, version, value FROM item WHERE bucket = ?"
	simpleMark   = "/* simple */ "
)

func (c Change) statement() (text string, args []any) {
	value := journal.Value(c.Key, c.Version)
	switch c.Verb {
	case Update:
		return updateItem, []any{c.Version, value, c.Bucket, c.Slot}
	case Delete:
		return deleteItem, []any{c.Bucket, c.Slot}
	}
	return insertItem, []any{c.Bucket, c.Slot, c.Version, value}
}

// inline puts literals in the place of the marks.
func inline(text string, args []any) string {
	var b strings.Builder
	b.WriteString(simpleMark)
	for _, arg := range args {
		before, after, _ := strings.Cut(text, "?")
		b.WriteString(before)
		if s, isText := arg.(string); isText {
			b.WriteString("'" + strings.ReplaceAll(s, "'", "''") + "'")
		} else {
			fmt.Fprint(&b, arg)
		}
		text = after
	}
	return b.String() + text
}

// Write sends the changes as one request.
func (c *CQL) Write(ctx context.Context, w Write) error {
	if w.Batch == NoBatch {
		text, args := w.Changes[0].statement()
		return c.query(text, args, w.Style).ExecContext(ctx)
	}
	kind := gocql.LoggedBatch
	if w.Batch == Unlogged {
		kind = gocql.UnloggedBatch
	}
	batch := c.session.Batch(kind)
	for _, change := range w.Changes {
		text, args := change.statement()
		if w.Style == Simple {
			text, args = inline(text, args), nil
		}
		batch = batch.Query(text, args...)
	}
	return batch.ExecContext(ctx)
}

func (c *CQL) query(text string, args []any, s Style) *gocql.Query {
	if s == Simple {
		return c.session.Query(inline(text, args))
	}
	return c.session.Query(text, args...)
}

// Read reads one row.
func (c *CQL) Read(ctx context.Context, k journal.Key, s Style) (*journal.Found, error) {
	found := &journal.Found{Key: k}
	err := c.query(selectItem, []any{k.Bucket, k.Slot}, s).ScanContext(ctx, &found.Slot, &found.Version, &found.Value)
	if errors.Is(err, gocql.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// ReadBucket reads a partition, page by page.
func (c *CQL) ReadBucket(ctx context.Context, bucket string, s Style) ([]journal.Found, error) {
	var out []journal.Found
	iter := c.query(selectBucket, []any{bucket}, s).PageSize(readPage).IterContext(ctx)
	row := journal.Found{Key: journal.Key{Bucket: bucket}}
	for iter.Scan(&row.Slot, &row.Version, &row.Value) {
		out = append(out, row)
	}
	return out, iter.Close()
}
