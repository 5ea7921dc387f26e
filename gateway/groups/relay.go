package groups

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/braidmq/braid/federation"
)

// The messages of the relay between gateways: those of a membership, in both
// directions, and calls. They are JSON, as the state in Redis; unknown fields are
// ignored, so that gateways of neighbouring versions understand each other.

// relayRequest goes to the coordinator: one of its fields is set. The first of a
// pipe is Subscribe.
type relayRequest struct {
	Subscribe *SubscribeRequest           `json:"subscribe,omitempty"`
	Alive     bool                        `json:"alive,omitempty"`
	ID        int64                       `json:"id,omitempty"` // of what is answered
	Commit    []CommitOffset              `json:"commit,omitempty"`
	Revoked   []federation.TopicPartition `json:"revoked,omitempty"`
	Leave     bool                        `json:"leave,omitempty"`
}

// relayResponse comes from the coordinator: one of its fields is set. The first of a
// pipe is Member or Closed, the last is Closed.
type relayResponse struct {
	Member *relayMember     `json:"member,omitempty"`
	Event  *AssignmentEvent `json:"event,omitempty"`
	Result *relayResult     `json:"result,omitempty"`
	Closed *relayClosed     `json:"closed,omitempty"`
}

type relayMember struct {
	ID string `json:"id"`
}

type relayResult struct {
	ID     int64         `json:"id"`
	Errors []*relayError `json:"errors,omitempty"` // one for each offset, null = stored
	Error  *relayError   `json:"error,omitempty"`
}

type relayClosed struct {
	Error *relayError `json:"error,omitempty"`
}

type relayError struct {
	Kind         federation.Kind `json:"kind"`
	Message      string          `json:"message"`
	RetryAfterMs int64           `json:"retry_after_ms,omitempty"`
}

func toRelay(err error) *relayError {
	if err == nil {
		return nil
	}
	r := &relayError{Kind: federation.KindOf(err), Message: "the group's coordinator failed"}
	if e, ok := errors.AsType[*federation.Error](err); ok {
		r.Message, r.RetryAfterMs = e.Message, e.RetryAfter.Milliseconds()
	}
	return r
}

func (r *relayError) err() error {
	if r == nil {
		return nil
	}
	err := federation.Errorf(r.Kind, "%s", r.Message)
	err.RetryAfter = time.Duration(r.RetryAfterMs) * time.Millisecond
	return err
}

func toRelayAll(errs []error) []*relayError {
	out := make([]*relayError, len(errs))
	for i, err := range errs {
		out[i] = toRelay(err)
	}
	return out
}

func fromRelayAll(all []*relayError) []error {
	out := make([]error, len(all))
	for i, r := range all {
		out[i] = r.err()
	}
	return out
}

// ServeMember serves the membership of a Connect member that is connected to another
// gateway, until the membership or the pipe ends. recv returns the peer's messages
// in order; it must return an error when the pipe ended or ServeMember has
// returned. send is not called concurrently. The error is that of the pipe; how a
// membership ended is said inside it. If the pipe ends without Leave, the member
// stays for its session timeout.
func ServeMember(ctx context.Context, c Coordinator, recv func() ([]byte, error), send func([]byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var first relayRequest
	if err := receive(recv, &first); err != nil {
		return err
	}
	if first.Subscribe == nil {
		return federation.Errorf(federation.InvalidArgument, "relay: the first message subscribes to nothing")
	}
	m, err := c.Subscribe(ctx, *first.Subscribe)
	if err != nil {
		return send(encode(relayResponse{Closed: &relayClosed{toRelay(err)}}))
	}
	if err := send(encode(relayResponse{Member: &relayMember{m.MemberID()}})); err != nil {
		return err
	}
	results := make(chan relayResponse)
	broken := make(chan error, 1)
	go func() { broken <- serveRequests(ctx, m, recv, results) }()
	for {
		var out relayResponse
		select {
		case ev, ok := <-m.Events():
			if !ok {
				return send(encode(relayResponse{Closed: &relayClosed{toRelay(m.Err())}}))
			}
			out.Event = &ev
		case out = <-results:
		case err := <-broken:
			return err
		}
		if err := send(encode(out)); err != nil {
			return err
		}
	}
}

func receive(recv func() ([]byte, error), v any) error {
	b, err := recv()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return federation.Errorf(federation.InvalidArgument, "relay: %w", err)
	}
	return nil
}

// serveRequests answers a member's requests one after the other, so that a commit
// is stored before the Revoked behind it frees the partition.
func serveRequests(ctx context.Context, m Membership, recv func() ([]byte, error), results chan<- relayResponse) error {
	for {
		var r relayRequest
		if err := receive(recv, &r); err != nil {
			return err
		}
		m.Alive()
		if r.Alive {
			continue
		}
		res := relayResult{ID: r.ID}
		var err error
		switch {
		case r.Leave:
			err = m.Leave(ctx)
		case r.Revoked != nil:
			err = m.Revoked(ctx, r.Revoked)
		default:
			var errs []error
			errs, err = m.Commit(ctx, r.Commit)
			res.Errors = toRelayAll(errs)
		}
		res.Error = toRelay(err)
		select {
		case results <- relayResponse{Result: &res}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// The methods of calls.
const (
	methodCommit        = "commit"
	methodDeleteOffsets = "delete_offsets"
	methodDescribe      = "describe"
	methodDelete        = "delete"
	methodList          = "list"
	methodLeave         = "leave"
)

type callRequest struct {
	Commit     *CommitRequest              `json:"commit,omitempty"`
	Partitions []federation.TopicPartition `json:"partitions"` // null = all
	Leaving    []LeavingMember             `json:"leaving,omitempty"`
}

type callResponse struct {
	Errors      []*relayError `json:"errors,omitempty"`
	Error       *relayError   `json:"error,omitempty"`
	Description *Description  `json:"description,omitempty"`
	Listings    []Listing     `json:"listings,omitempty"`
}

// ServeCall answers a call of another gateway. Errors of the coordinator are inside
// the answer; an error is returned for a call that is none.
func ServeCall(ctx context.Context, c Coordinator, group, method string, message []byte) ([]byte, error) {
	var r callRequest
	if err := json.Unmarshal(message, &r); err != nil {
		return nil, federation.Errorf(federation.InvalidArgument, "relay: call %q: %w", method, err)
	}
	var res callResponse
	var errs []error
	var err error
	switch method {
	case methodCommit:
		if r.Commit == nil {
			return nil, federation.Errorf(federation.InvalidArgument, "relay: a commit without offsets")
		}
		errs, err = c.Commit(ctx, *r.Commit)
	case methodDeleteOffsets:
		errs, err = c.DeleteOffsets(ctx, group, r.Partitions)
	case methodDescribe:
		var d Description
		d, err = c.Describe(ctx, group)
		res.Description = &d
	case methodDelete:
		err = c.Delete(ctx, group)
	case methodList:
		res.Listings, err = c.List(ctx)
	case methodLeave:
		errs, err = c.Leave(ctx, group, r.Leaving)
	default:
		return nil, federation.Errorf(federation.Unsupported, "relay: unknown call %q", method)
	}
	res.Errors, res.Error = toRelayAll(errs), toRelay(err)
	return encode(res), nil
}
