package groups

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/braidmq/braid/federation"
)

// A Peer is another gateway, as the relay reaches it. Its methods may be called
// concurrently.
type Peer interface {
	// Member opens a pipe to ServeMember at the peer; it ends with ctx or Close.
	Member(ctx context.Context) (Pipe, error)
	// Call is answered by ServeCall at the peer.
	Call(ctx context.Context, logicalCluster, group, method string, message []byte) ([]byte, error)
}

// A Pipe carries the messages of one membership. One goroutine sends, another
// receives; Close unblocks both.
type Pipe interface {
	Send([]byte) error
	Recv() ([]byte, error)
	Close() error
}

// A Remote is the coordinator at another gateway. All errors of the way there are of
// kind NotCoordinator: the caller looks the coordinator up again.
type Remote struct {
	peer           Peer
	logicalCluster string
	eventsMax      int
}

// NewRemote makes a Remote; eventsMax bounds the assignment changes that a
// membership holds for its reader.
func NewRemote(peer Peer, logicalCluster string, eventsMax int) *Remote {
	return &Remote{peer: peer, logicalCluster: logicalCluster, eventsMax: max(eventsMax, 1)}
}

func errPeer(group string, err error) error {
	return federation.Errorf(federation.NotCoordinator, "group %q: its coordinator does not answer; look it up again", group).WithCause(err)
}

func (r *Remote) call(ctx context.Context, group, method string, req callRequest) (callResponse, error) {
	var res callResponse
	b, err := r.peer.Call(ctx, r.logicalCluster, group, method, encode(req))
	if err != nil {
		return res, errPeer(group, err)
	}
	if err := json.Unmarshal(b, &res); err != nil {
		return res, federation.Errorf(federation.Internal, "group %q: the answer of its coordinator cannot be read: %w", group, err)
	}
	return res, res.Error.err()
}

// Commit is Coordinator.Commit.
func (r *Remote) Commit(ctx context.Context, req CommitRequest) ([]error, error) {
	res, err := r.call(ctx, req.Group, methodCommit, callRequest{Commit: &req})
	return fromRelayAll(res.Errors), err
}

// DeleteOffsets is Coordinator.DeleteOffsets.
func (r *Remote) DeleteOffsets(ctx context.Context, group string, tps []federation.TopicPartition) ([]error, error) {
	res, err := r.call(ctx, group, methodDeleteOffsets, callRequest{Partitions: tps})
	return fromRelayAll(res.Errors), err
}

// Describe is Coordinator.Describe.
func (r *Remote) Describe(ctx context.Context, group string) (Description, error) {
	res, err := r.call(ctx, group, methodDescribe, callRequest{})
	if res.Description == nil {
		return Description{}, err
	}
	return *res.Description, err
}

// Delete is Coordinator.Delete.
func (r *Remote) Delete(ctx context.Context, group string) error {
	_, err := r.call(ctx, group, methodDelete, callRequest{})
	return err
}

// List is Coordinator.List at the peer.
func (r *Remote) List(ctx context.Context) ([]Listing, error) {
	res, err := r.call(ctx, "", methodList, callRequest{})
	return res.Listings, err
}

// Leave is Coordinator.Leave.
func (r *Remote) Leave(ctx context.Context, group string, members []LeavingMember) ([]error, error) {
	res, err := r.call(ctx, group, methodLeave, callRequest{Leaving: members})
	return fromRelayAll(res.Errors), err
}

// Subscribe is Coordinator.Subscribe. The membership ends with kind NotCoordinator
// if the pipe breaks.
func (r *Remote) Subscribe(ctx context.Context, req SubscribeRequest) (Membership, error) {
	ctx, cancel := context.WithCancel(ctx)
	pipe, err := r.peer.Member(ctx)
	if err != nil {
		cancel()
		return nil, errPeer(req.Group, err)
	}
	stop := func() {
		cancel()
		_ = pipe.Close()
	}
	if err := pipe.Send(encode(relayRequest{Subscribe: &req})); err != nil {
		stop()
		return nil, errPeer(req.Group, err)
	}
	var first relayResponse
	if err := receive(pipe.Recv, &first); err != nil {
		stop()
		return nil, errPeer(req.Group, err)
	}
	if first.Member == nil {
		stop()
		if first.Closed == nil || first.Closed.Error == nil {
			return nil, errPeer(req.Group, nil)
		}
		return nil, first.Closed.Error.err()
	}
	m := &remoteMember{
		group: req.Group, id: first.Member.ID, pipe: pipe, events: make(chan AssignmentEvent, r.eventsMax),
		out: make(chan relayRequest), alive: make(chan struct{}, 1), over: make(chan struct{}), pending: map[int64]chan relayResult{},
	}
	context.AfterFunc(ctx, func() { _ = pipe.Close() })
	go m.send(ctx)
	go func() {
		defer stop()
		m.receive(ctx)
	}()
	return m, nil
}

// A remoteMember is a Membership over a pipe.
type remoteMember struct {
	group, id string
	pipe      Pipe
	events    chan AssignmentEvent
	out       chan relayRequest
	alive     chan struct{}
	over      chan struct{} // closed when the pipe ended; err is set then

	mu      sync.Mutex // guards the following
	err     error
	next    int64
	pending map[int64]chan relayResult
	left    bool // the coordinator said good-bye
}

func (m *remoteMember) send(ctx context.Context) {
	for {
		var r relayRequest
		select {
		case r = <-m.out:
		case <-m.alive:
			r.Alive = true
		case <-m.over:
			return
		case <-ctx.Done():
			return
		}
		if err := m.pipe.Send(encode(r)); err != nil {
			_ = m.pipe.Close() // receive notices, and ends the membership
			return
		}
	}
}

func (m *remoteMember) receive(ctx context.Context) {
	err := m.pump(ctx)
	m.mu.Lock()
	if ctx.Err() == nil {
		m.err = err
	}
	m.mu.Unlock()
	close(m.over)
	close(m.events)
}

// pump takes what comes until the membership ends, and returns why it did.
func (m *remoteMember) pump(ctx context.Context) error {
	for {
		var res relayResponse
		if err := receive(m.pipe.Recv, &res); err != nil {
			return errPeer(m.group, err)
		}
		switch {
		case res.Closed != nil:
			m.mu.Lock()
			m.left = res.Closed.Error == nil
			m.mu.Unlock()
			return res.Closed.Error.err()
		case res.Event != nil:
			select {
			case m.events <- *res.Event:
			case <-ctx.Done():
				return nil
			}
		case res.Result != nil:
			m.mu.Lock()
			waits := m.pending[res.Result.ID]
			delete(m.pending, res.Result.ID)
			m.mu.Unlock()
			if waits != nil {
				waits <- *res.Result
			}
		}
	}
}

func (m *remoteMember) MemberID() string { return m.id }

func (m *remoteMember) Events() <-chan AssignmentEvent { return m.events }

func (m *remoteMember) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *remoteMember) Alive() { signal(m.alive) }

func (m *remoteMember) ask(ctx context.Context, r relayRequest) (relayResult, error) {
	waits := make(chan relayResult, 1)
	m.mu.Lock()
	m.next++
	r.ID = m.next
	m.pending[r.ID] = waits
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.pending, r.ID)
		m.mu.Unlock()
	}()
	select {
	case m.out <- r:
	case <-m.over:
		return relayResult{}, m.gone()
	case <-ctx.Done():
		return relayResult{}, errGaveUp(m.group, ctx.Err())
	}
	select {
	case res := <-waits:
		return res, res.Error.err()
	case <-ctx.Done():
		return relayResult{}, errGaveUp(m.group, ctx.Err())
	case <-m.over:
	}
	select { // the answer may have come before the end
	case res := <-waits:
		return res, res.Error.err()
	default:
		return relayResult{}, m.gone()
	}
}

func (m *remoteMember) gone() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.err != nil:
		return m.err
	case m.left:
		return errUnknownMember(m.group, m.id)
	default: // its context ended: it may go on at another coordinator
		return errPeer(m.group, nil)
	}
}

func (m *remoteMember) Commit(ctx context.Context, offsets []CommitOffset) ([]error, error) {
	res, err := m.ask(ctx, relayRequest{Commit: offsets})
	return fromRelayAll(res.Errors), err
}

func (m *remoteMember) Revoked(ctx context.Context, tps []federation.TopicPartition) error {
	if len(tps) == 0 {
		return nil
	}
	_, err := m.ask(ctx, relayRequest{Revoked: tps})
	return err
}

func (m *remoteMember) Leave(ctx context.Context) error {
	_, err := m.ask(ctx, relayRequest{Leave: true})
	if err != nil && m.saidGoodbye() { // the end of the membership can overtake the answer
		return nil
	}
	return err
}

func (m *remoteMember) saidGoodbye() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.left
}
