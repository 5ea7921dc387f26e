package kafkacompat

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/acl"
)

// The session epochs that ask for all partitions (FetchMetadata.java).
const (
	sessionEpochInitial = 0
	sessionEpochFinal   = -1
)

// sessionVersionMin is the first version of Fetch that has sessions.
const sessionVersionMin = 7

// A fetchSession is what a client fetches: for one request, or for all that it sends
// on its connection until it begins anew (KIP-227). Then a request names only the
// partitions whose position has changed, and an answer only those with news.
//
// A session lives and dies with its connection, where a broker's outlives it. So it
// needs no lock, and nobody else's request can reach it; a client that connects again
// is told that its session is not known, and begins a new one. The goroutine that
// answers the connection's requests owns it.
type fetchSession struct {
	id    int32 // 0: for one request
	epoch int32 // of the next request
	byID  bool  // topics are named by their ids, from version 13 on

	parts    []*fetchPart            // in the order of the next answer
	index    map[fetchKey]*fetchPart // nil if it is for one request
	reserved int                     // of the server's room for parts

	resolved federation.MapVersion // whose topics parts know
	from     []router.Position     // of the last request, for its memory
	told     []*fetchPart          // likewise
	behind   []*fetchPart          // likewise
}

// A fetchTopic names a topic as the client does: by name, or from version 13 on by id.
type fetchTopic struct {
	name string
	id   [16]byte
}

type fetchKey struct {
	topic     fetchTopic
	partition int32
}

// A fetchPart is one partition that a client fetches.
type fetchPart struct {
	fetchKey
	want    router.Position // of the topic that was found
	refused *kerr.Error     // why the router is not asked
	allowed *acl.Snapshot   // by which the client may read the topic; nil = to be asked

	// Of the answer under way:
	query int // index in the positions asked of the router; -1 = refused
	code  int16
	hint  *leaderHint
	near  *federation.Gateway // the replica in the client's zone, to read from there; nil = none
	slice *router.Slice

	// What the client was told last, if it is in a session.
	high, stable, logStart federation.LogicalOffset
}

// untold is what no answer says.
const untold = federation.LogicalOffset(math.MinInt64)

// fetchSessionOf finds or begins the session that a request is of, and changes it as
// the request says. With full, the answer names all partitions.
func (c *conn) fetchSessionOf(ctx context.Context, req *request, kreq *kmsg.FetchRequest) (s *fetchSession, full bool, refused *kerr.Error) {
	hasSessions := req.version >= sessionVersionMin
	byID := req.version >= 13
	if !hasSessions || kreq.SessionEpoch == sessionEpochInitial || kreq.SessionEpoch == sessionEpochFinal {
		begins := hasSessions && kreq.SessionEpoch == sessionEpochInitial
		if c.fetches != nil && (begins || hasSessions && kreq.SessionID == c.fetches.id) {
			c.endFetchSession(ctx)
		}
		s = &fetchSession{byID: byID}
		if begins && !fromReplica(kreq) && len(kreq.Topics) > 0 {
			s.index = make(map[fetchKey]*fetchPart)
		}
		s.update(kreq)
		if s.index != nil {
			c.beginFetchSession(ctx, s)
		}
		return s, true, nil
	}
	s = c.fetches
	switch {
	case s == nil || s.id != kreq.SessionID:
		return nil, false, kerr.FetchSessionIDNotFound
	case s.epoch != kreq.SessionEpoch:
		return nil, false, kerr.InvalidFetchSessionEpoch
	case s.byID != byID:
		return nil, false, kerr.FetchSessionTopicIDError
	}
	s.epoch = max(s.epoch+1, 1) // behind the largest comes 1
	s.update(kreq)
	if !c.s.reserveFetchParts(s) { // the client begins anew, and is declined
		c.endFetchSession(ctx)
		return nil, false, kerr.FetchSessionIDNotFound
	}
	if len(s.parts) == 0 {
		c.endFetchSession(ctx)
	}
	return s, false, nil
}

func fromReplica(kreq *kmsg.FetchRequest) bool {
	return kreq.ReplicaID >= 0 || kreq.ReplicaState.ID >= 0
}

// beginFetchSession keeps a session for the connection's next requests if there is
// room. Else it is for this request alone, which clients take as that the session was
// declined: they go on with full requests.
func (c *conn) beginFetchSession(ctx context.Context, s *fetchSession) {
	if !c.s.reserveFetchParts(s) {
		s.index = nil
		c.s.deps.Metrics.fetchSessionDeclined(ctx)
		return
	}
	s.id, s.epoch = 1+rand.Int32N(math.MaxInt32), 1
	c.fetches = s
	c.s.deps.Metrics.fetchSessions(ctx, 1)
}

// endFetchSession leaves the session to the request that is under way, if one is.
func (c *conn) endFetchSession(ctx context.Context) {
	s := c.fetches
	if s == nil {
		return
	}
	c.fetches = nil
	c.s.fetchParts.Add(int64(-s.reserved))
	s.id, s.reserved = 0, 0
	c.s.deps.Metrics.fetchSessions(ctx, -1)
}

// reserveFetchParts brings what a session has reserved to its size; false if there is
// no room.
func (s *Server) reserveFetchParts(f *fetchSession) bool {
	more := len(f.parts) - f.reserved
	if s.fetchParts.Add(int64(more)) > s.cfg.FetchSessionPartitionsMax && more > 0 {
		s.fetchParts.Add(int64(-more))
		return false
	}
	f.reserved = len(f.parts)
	return true
}

// update takes over what a request says of its partitions. Of a partition that it names
// twice the last counts, in the place of the first (FetchRequest.fetchData).
func (s *fetchSession) update(kreq *kmsg.FetchRequest) {
	n := 0
	for i := range kreq.Topics {
		n += len(kreq.Topics[i].Partitions)
	}
	var block []fetchPart // one request's parts live and die together
	var index map[fetchKey]*fetchPart
	switch {
	case s.index != nil:
		index = s.index
	case n > fewFetched:
		index = fetchIndexes.Get().(map[fetchKey]*fetchPart)
		defer putFetchIndex(index)
	}
	if s.index == nil {
		block = make([]fetchPart, n)
		s.parts = make([]*fetchPart, 0, n)
	}
	for i := range kreq.Topics {
		kt := &kreq.Topics[i]
		topic := fetchTopic{name: kt.Topic}
		if s.byID {
			topic = fetchTopic{id: kt.TopicID}
		}
		for j := range kt.Partitions {
			kp := &kt.Partitions[j]
			key := fetchKey{topic, kp.Partition}
			p := s.find(index, key)
			if p == nil {
				if block != nil {
					p = &block[len(s.parts)]
					*p = newFetchPart(key)
				} else {
					p = new(newFetchPart(key))
				}
				s.parts = append(s.parts, p)
				if index != nil {
					index[key] = p
				}
			}
			p.want.Offset = federation.LogicalOffset(kp.FetchOffset)
			p.want.MaxBytes = max(kp.PartitionMaxBytes, 0)
			p.want.CurrentEpoch = federation.LogicalEpoch(kp.CurrentLeaderEpoch)
			p.want.LastFetchedEpoch = federation.LogicalEpoch(kp.LastFetchedEpoch)
		}
	}
	if s.index != nil {
		s.forget(kreq)
	}
}

// fewFetched is how many partitions are compared with each other: that costs less than an
// index.
const fewFetched = 16

// fetchIndexes has indexes for requests without a session, so that those cost no memory.
var fetchIndexes = sync.Pool{New: func() any { return make(map[fetchKey]*fetchPart) }}

// fetchIndexKept is how many partitions an index may have had that is used again.
const fetchIndexKept = 4096

func putFetchIndex(index map[fetchKey]*fetchPart) {
	if len(index) <= fetchIndexKept {
		clear(index)
		fetchIndexes.Put(index)
	}
}

// find looks for a partition; a nil index has not those of few.
func (s *fetchSession) find(index map[fetchKey]*fetchPart, key fetchKey) *fetchPart {
	if index != nil {
		return index[key]
	}
	for _, p := range s.parts {
		if p.partition == key.partition && p.topic == key.topic {
			return p
		}
	}
	return nil
}

// errUnresolved has a part looked up in the map.
var errUnresolved = &kerr.Error{Message: "UNRESOLVED"}

func newFetchPart(key fetchKey) fetchPart {
	return fetchPart{fetchKey: key, refused: errUnresolved, high: untold}
}

// forget takes out what the client does not want any more.
func (s *fetchSession) forget(kreq *kmsg.FetchRequest) {
	before := len(s.index)
	for i := range kreq.ForgottenTopics {
		kt := &kreq.ForgottenTopics[i]
		topic := fetchTopic{name: kt.Topic}
		if s.byID {
			topic = fetchTopic{id: kt.TopicID}
		}
		for _, partition := range kt.Partitions {
			delete(s.index, fetchKey{topic, partition})
		}
	}
	if len(s.index) == before {
		return
	}
	kept := s.parts[:0]
	for _, p := range s.parts {
		if s.index[p.fetchKey] == p {
			kept = append(kept, p)
		}
	}
	clear(s.parts[len(kept):])
	s.parts = kept
}

// positions returns what the router is to be asked. A nil map knows nothing yet.
func (s *fetchSession) positions(ctx context.Context, req *request, m *federation.Map, replica bool) []router.Position {
	if cap(s.from) < len(s.parts) {
		s.from = make([]router.Position, 0, len(s.parts))
	}
	s.from = s.from[:0]
	known := m != nil && s.resolved == m.Version
	for _, p := range s.parts {
		if !known || p.refused == errUnresolved {
			p.resolve(m, s.byID)
		}
		p.code, p.query, p.hint, p.near, p.slice = 0, -1, nil, nil, nil
		if replica { // no broker replicates from a gateway
			p.code = req.refuse(kerr.ClusterAuthorizationFailed)
			continue
		}
		if m != nil && !p.readable(ctx, req) {
			p.code = req.refuse(kerr.TopicAuthorizationFailed)
			continue
		}
		if p.refused != nil {
			p.code = req.refuse(p.refused)
			continue
		}
		p.query = len(s.from)
		s.from = append(s.from, p.want)
	}
	s.resolved = 0
	if m != nil {
		s.resolved = m.Version
	}
	return s.from
}

// readable reports whether the client may read the topic. While the ACLs are the same it
// is not decided again; a denial is, as each is recorded. An id that nobody has is not
// denied, but unknown.
func (p *fetchPart) readable(ctx context.Context, req *request) bool {
	now := req.may.Snapshot()
	if now == nil || p.allowed == now || p.refused == kerr.UnknownTopicID {
		return true
	}
	name := p.topic.name
	if name == "" {
		name = string(p.want.Topic)
	}
	if !req.may.May(ctx, acl.Read, acl.Topic, name) {
		return false
	}
	p.allowed = now
	return true
}

// resolve finds the partition in the map.
func (p *fetchPart) resolve(m *federation.Map, byID bool) {
	if m == nil {
		p.refused = kerr.NotLeaderForPartition
		return
	}
	found, unknown := findTopic(m, byID, p.topic.name, p.topic.id)
	if found != nil {
		p.want.Topic = found.Name
	}
	switch {
	case found == nil:
		p.refused = unknown
	case p.partition < 0 || int(p.partition) >= len(found.Partitions):
		p.refused = kerr.UnknownTopicOrPartition
	default:
		p.refused = nil
		p.want.TopicPartition = federation.TopicPartition{Topic: found.Name, Partition: federation.LogicalPartition(p.partition)}
	}
}

// fill does something to each part that the router was asked for.
func (s *fetchSession) fill(f func(*fetchPart)) {
	for _, p := range s.parts {
		if p.query >= 0 {
			f(p)
		}
	}
}

// answered returns the parts that an answer names, by topic as they come. Those with
// records go behind the others for the next request: else, when answers are full, the
// partitions at the front would be the only ones that are read (FetchSession.scala).
func (s *fetchSession) answered(full bool) []*fetchPart {
	if s.index == nil {
		return s.parts
	}
	s.told, s.behind = s.told[:0], s.behind[:0]
	kept := s.parts[:0]
	for _, p := range s.parts {
		if p.news() || full {
			s.told = append(s.told, p)
		}
		if p.slice != nil && len(p.slice.Records) > 0 {
			s.behind = append(s.behind, p)
		} else {
			kept = append(kept, p)
		}
	}
	s.parts = append(kept, s.behind...)
	return s.told
}

// news notes what the client is told, and reports whether that is anything new
// (CachedPartition.maybeUpdateResponseData). An error is told again until it is over,
// and what comes after it in any case.
func (p *fetchPart) news() bool {
	s := p.slice
	if p.code != 0 || s == nil || s.Diverging != nil {
		p.high = untold
		return true
	}
	changed := len(s.Records) > 0 || p.near != nil || s.HighWatermark != p.high || s.LastStable != p.stable || s.LogStart != p.logStart
	p.high, p.stable, p.logStart = s.HighWatermark, s.LastStable, s.LogStart
	return changed
}
