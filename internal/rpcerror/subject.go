package rpcerror

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"sync/atomic"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/braidmq/braid/federation"
)

// valueBytesMax bounds one value of the metadata: no name is as long, but a client
// can send anything, and errors travel in headers.
const valueBytesMax = 512

func metadata(kind string, e *federation.Error) map[string]string {
	out := map[string]string{
		metadataKind:  kind,
		metadataRetry: strconv.FormatBool(e.Kind.Retriable()),
	}
	set := func(key, value string) {
		if value != "" && len(value) <= valueBytesMax {
			out[key] = strings.ToValidUTF8(value, "\uFFFD") // else the message could not be marshalled
		}
	}
	about := e.Subject
	set(metadataTopic, string(about.Topic))
	if about.Partition != nil {
		set(metadataPartition, strconv.Itoa(int(*about.Partition)))
	}
	set(metadataCluster, string(about.Cluster))
	set(metadataGroup, about.Group)
	set(metadataSetting, string(about.Setting))
	return out
}

func subjectOfInfo(info *errdetails.ErrorInfo) federation.Subject {
	m := info.GetMetadata()
	out := federation.Subject{
		Topic:   federation.TopicName(m[metadataTopic]),
		Cluster: federation.ClusterName(m[metadataCluster]),
		Group:   m[metadataGroup],
		Setting: federation.SettingName(m[metadataSetting]),
	}
	if n, err := strconv.ParseInt(m[metadataPartition], 10, 32); err == nil {
		p := federation.LogicalPartition(n)
		out.Partition = &p
	}
	return out
}

// Subjects is an interceptor of handlers: an error that does not say so itself is
// about the topic, the group and the cluster that the call is about, if the call is
// about one. Of a stream the first message says it.
func Subjects() connect.Interceptor { return subjects{} }

type subjects struct{}

// WrapUnary implements connect.Interceptor.
func (subjects) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, req)
		if err != nil && !req.Spec().IsClient {
			return res, about(err, subjectOf(req.Spec().Procedure, req.Any()))
		}
		return res, err
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (subjects) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (subjects) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		c := &firstMessage{StreamingHandlerConn: conn}
		err := next(ctx, c)
		if s := c.subject.Load(); err != nil && s != nil {
			return about(err, *s)
		}
		return err
	}
}

// A firstMessage notes what the first message of a stream is about. Receive is
// called by one goroutine, which may outlive the handler.
type firstMessage struct {
	connect.StreamingHandlerConn
	subject atomic.Pointer[federation.Subject]
}

// Receive implements connect.StreamingHandlerConn.
func (c *firstMessage) Receive(msg any) error {
	err := c.StreamingHandlerConn.Receive(msg)
	if err == nil && c.subject.Load() == nil {
		s := subjectOf(c.Spec().Procedure, msg)
		c.subject.Store(&s)
	}
	return err
}

// about fills what an error of braid does not say of its subject.
func about(err error, s federation.Subject) error {
	var wire *connect.Error
	if !errors.As(err, &wire) || s == (federation.Subject{}) {
		return err
	}
	e, ok := errors.AsType[*federation.Error](FromError(err))
	if !ok || !fromBraid(wire) {
		return err
	}
	e.Subject.Fill(s)
	out := Error(e)
	maps.Copy(out.Meta(), wire.Meta())
	return out
}

// fromBraid reports whether an error has an ErrorInfo of braid.
func fromBraid(wire *connect.Error) bool {
	for _, d := range wire.Details() {
		if v, err := d.Value(); err == nil {
			if info, ok := v.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
				return true
			}
		}
	}
	return false
}

// groupService is where a bare name is a group's.
const groupService = "/braid.admin.v1.GroupService/"

// subjectOf returns what a request is about, by the names that all requests use for
// the same things.
func subjectOf(procedure string, request any) federation.Subject {
	var out federation.Subject
	msg, ok := request.(proto.Message)
	if !ok {
		return out
	}
	m := msg.ProtoReflect()
	out.Topic = federation.TopicName(text(m, "topic"))
	out.Fill(federation.Subject{Topic: federation.TopicName(text(m, "topic_id")), Group: text(m, "group")})
	name := text(m, "name")
	if strings.HasPrefix(procedure, groupService) && !strings.Contains(name, "/") {
		out.Group = name
	}
	out.Fill(subjectOfPath(name))
	out.Fill(subjectOfPath(text(m, "parent")))
	for _, field := range []protoreflect.Name{"topic", "cluster"} {
		if in, ok := message(m, field); ok {
			out.Fill(subjectOfPath(text(in, "name")))
		}
	}
	for _, field := range []protoreflect.Name{"batch", "subscribe"} {
		if in, ok := message(m, field); ok {
			out.Fill(federation.Subject{Topic: federation.TopicName(text(in, "topic")), Group: text(in, "group")})
		}
	}
	out.Fill(federation.Subject{Topic: oneTopic(m)})
	return out
}

// subjectOfPath reads logicalClusters/L/topics/T, logicalClusters/L/groups/G and
// physicalClusters/C.
func subjectOfPath(path string) federation.Subject {
	var out federation.Subject
	if name, ok := strings.CutPrefix(path, "physicalClusters/"); ok {
		out.Cluster = federation.ClusterName(name)
	} else if rest, ok := strings.CutPrefix(path, "logicalClusters/"); ok {
		if _, topic, ok := strings.Cut(rest, "/topics/"); ok {
			out.Topic = federation.TopicName(topic)
		} else if _, group, ok := strings.Cut(rest, "/groups/"); ok {
			out.Group = group
		}
	}
	return out
}

// oneTopic returns the topic of the sources of a request, if all have the same.
func oneTopic(m protoreflect.Message) federation.TopicName {
	field := m.Descriptor().Fields().ByName("sources")
	if field == nil || !field.IsList() || field.Message() == nil {
		return ""
	}
	topic := ""
	for list, i := m.Get(field).List(), 0; i < list.Len(); i++ {
		switch t := text(list.Get(i).Message(), "topic"); {
		case topic == "":
			topic = t
		case topic != t:
			return ""
		}
	}
	return federation.TopicName(topic)
}

// text returns a string field; empty if there is none.
func text(m protoreflect.Message, name protoreflect.Name) string {
	field := m.Descriptor().Fields().ByName(name)
	if field == nil || field.Kind() != protoreflect.StringKind || field.IsList() {
		return ""
	}
	return m.Get(field).String()
}

// message returns a message field that is set.
func message(m protoreflect.Message, name protoreflect.Name) (protoreflect.Message, bool) {
	field := m.Descriptor().Fields().ByName(name)
	if field == nil || field.Message() == nil || field.IsList() || field.IsMap() || !m.Has(field) {
		return nil, false
	}
	return m.Get(field).Message(), true
}
