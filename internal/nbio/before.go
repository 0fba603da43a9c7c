package nbio

// Prefixed is the input of a connection of which somebody has read the first
// bytes already.
type Prefixed struct {
	head []byte
	conn *Conn
}

// Before puts head in front of what conn will bring. It keeps head.
func Before(head []byte, conn *Conn) *Prefixed { return &Prefixed{head, conn} }

// Read is that of an io.Reader.
func (p *Prefixed) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.conn.Read(b)
}

// ReadLazily is that of the connection, once the head is read.
func (p *Prefixed) ReadLazily(buf func() []byte, release func()) (int, error) {
	if len(p.head) > 0 {
		return p.Read(buf())
	}
	return p.conn.ReadLazily(buf, release)
}
