// Package differential asks a plain Apache Kafka broker, braid in front of one, and braid over
// two between which partitions move the same, and compares the answers field by field. What differs on purpose is a list with reasons
// (rules.go), which users read as docs/kafka-differences.md; anything else is a bug.
package differential

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// answerTimeout bounds the wait for an answer.
const answerTimeout = 30 * time.Second

// patience is how long a request waits that one side may never answer.
const patience = 5 * time.Second

// hangs labels what one side may never answer.
const hangs = "records that are null"

// An Answer is what one side said to a request of a script.
type Answer struct {
	Script, Label string
	Key, Version  int16
	// Response is nil if there was none; then Instead says what there was.
	Response kmsg.Response
	Instead  string
}

func (a Answer) String() string {
	return fmt.Sprintf("%s: %s v%d, %s", a.Script, kmsg.NameForKey(a.Key), a.Version, a.Label)
}

// A Side is a server that scripts talk to, and what it answered.
type Side struct {
	Name    string
	Answers []Answer
	// Move moves all partitions of a topic to another physical cluster; nil where there is
	// one cluster, and nothing to move.
	Move func(topic string)

	t       testing.TB
	address string
	// versions are those that braid serves, of each API, for both sides.
	versions map[int16][2]int16
	script   string
	conn     net.Conn
	in       *bufio.Reader
	corr     int32
}

// NewSide makes a side of a server's address.
func NewSide(t testing.TB, name, address string, versions map[int16][2]int16) *Side {
	t.Helper()
	return &Side{Name: name, t: t, address: address, versions: versions}
}

// Run runs a script on the side, on a connection of its own.
func (s *Side) Run(name string, script func(*Side)) {
	s.script = name
	s.reconnect()
	defer func() { _ = s.conn.Close() }()
	script(s)
}

func (s *Side) reconnect() {
	if s.conn != nil {
		_ = s.conn.Close()
	}
	conn, err := net.DialTimeout("tcp", s.address, answerTimeout)
	require.NoError(s.t, err)
	s.conn, s.in = conn, bufio.NewReader(conn)
}

// span returns the versions of an API that both sides are asked in.
func (s *Side) span(key kmsg.Key) (lowest, highest int16) {
	v, ok := s.versions[int16(key)]
	require.True(s.t, ok, "%s is not served", kmsg.NameForKey(int16(key)))
	return v[0], v[1]
}

// each asks a request in every version that is served, from the given one on.
func (s *Side) each(label string, from int16, request func(version int16) kmsg.Request) {
	lowest, highest := s.span(kmsg.Key(request(from).Key()))
	for v := max(lowest, from); v <= highest; v++ {
		s.ask(label, v, request(v))
	}
}

// ask sends a request in a version, keeps the answer and returns it. It is nil if the
// connection was closed.
func (s *Side) ask(label string, version int16, r kmsg.Request) kmsg.Response {
	r.SetVersion(version)
	wait := answerTimeout
	if label == hangs {
		wait = patience
	}
	response, instead := s.exchange(r, wait)
	s.keep(label, r, response, instead)
	return response
}

// moved has the partitions of a topic move, where they can: answers must not tell.
func (s *Side) moved(topic string) {
	if s.Move != nil {
		s.Move(topic)
	}
}

func (s *Side) keep(label string, r kmsg.Request, response kmsg.Response, instead string) {
	s.Answers = append(s.Answers, Answer{s.script, label, r.Key(), r.GetVersion(), response, instead})
}

// until asks until the answer is good, and keeps that one: what was just made may not be
// everywhere yet.
func (s *Side) until(label string, version int16, r kmsg.Request, good func(kmsg.Response) bool) kmsg.Response {
	r.SetVersion(version)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(answerTimeout); ; <-tick.C {
		response, _ := s.exchange(r, answerTimeout)
		if response != nil && good(response) {
			s.keep(label, r, response, "")
			return response
		}
		require.True(s.t, time.Now().Before(deadline), "%s, %s: %s: the last answer is %+v", s.Name, s.script, label, response)
	}
}

// must is ask for what has an answer.
func must[R kmsg.Response](s *Side, label string, version int16, r kmsg.Request) R {
	response, ok := s.ask(label, version, r).(R)
	require.True(s.t, ok, "%s, %s: no answer to %s", s.Name, s.script, label)
	return response
}

func (s *Side) exchange(r kmsg.Request, wait time.Duration) (response kmsg.Response, instead string) {
	s.corr++
	require.NoError(s.t, s.conn.SetDeadline(time.Now().Add(wait)))
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("differential")).AppendRequest(nil, r, s.corr)
	body, err := s.roundTrip(frame)
	if err != nil {
		s.reconnect()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, "silence"
		}
		return nil, "the connection was closed"
	}
	response = r.ResponseKind()
	response.SetVersion(r.GetVersion())
	if response.Key() == int16(kmsg.ApiVersions) && len(body) > 1 && binary.BigEndian.Uint16(body) == 35 {
		response.SetVersion(0) // as Kafka answers versions that it does not know
	}
	if response.IsFlexible() && response.Key() != int16(kmsg.ApiVersions) {
		require.NotEmpty(s.t, body)
		require.Zero(s.t, body[0], "%s: tags of the header", s.Name)
		body = body[1:]
	}
	require.NoError(s.t, response.ReadFrom(body), "%s, %s: %s v%d", s.Name, s.script, kmsg.NameForKey(r.Key()), r.GetVersion())
	return response, ""
}

func (s *Side) roundTrip(frame []byte) ([]byte, error) {
	if _, err := s.conn.Write(frame); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(s.in, b); err != nil {
		return nil, err
	}
	if got := int32(binary.BigEndian.Uint32(b)); got != s.corr {
		return nil, errors.New("another correlation id")
	}
	return b[4:], nil
}

// Versions asks for the versions that the side serves.
func (s *Side) Versions() *kmsg.ApiVersionsResponse {
	r := kmsg.NewPtrApiVersionsRequest()
	r.ClientSoftwareName, r.ClientSoftwareVersion = "differential", "1.0"
	return must[*kmsg.ApiVersionsResponse](s, "served", 3, r)
}
