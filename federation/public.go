package federation

import (
	"errors"
	"fmt"
	"strings"
)

// Users of a tenant are not to learn where the deployment's data lies. Texts of errors
// name physical clusters and topics by arguments whose types say so, and Errorf writes
// such a text twice: whole, for operators, and as a tenant is told it, with the plain
// names of its topics.

// A Text is an argument of Errorf that a tenant is told otherwise. An empty Public is
// left out.
type Text struct{ Whole, Public string }

// Hidden is a Text that no tenant is told: the name of a physical topic, for example.
func Hidden(whole string) Text { return Text{Whole: whole} }

func (t Text) String() string { return t.Whole }

// unsaid stands in a text for what is left out. No argument has it: names are checked,
// and what clients send is quoted.
const unsaid = "\x00"

type left struct{}

// Format implements fmt.Formatter: nothing is quoted, and nothing is printed of it.
func (left) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(unsaid)) }

// words are said for what is left out.
var words = strings.NewReplacer(
	"physical clusters "+unsaid, "some physical clusters",
	"physical cluster "+unsaid, "a physical cluster",
	"cluster "+unsaid, "a cluster",
	"topic "+unsaid, "a topic",
	unsaid, "another one",
)

// publicText returns a text as a tenant is told it; empty if that is the same.
func publicText(format string, args []any) string {
	var public []any
	for i, arg := range args {
		told, other := publicArg(arg)
		if !other {
			continue
		}
		if public == nil {
			public = append(make([]any, 0, len(args)), args...)
		}
		public[i] = told
	}
	if public == nil {
		return ""
	}
	return words.Replace(fmt.Errorf(format, public...).Error())
}

func publicArg(arg any) (told any, other bool) {
	switch v := arg.(type) {
	case ClusterName, []ClusterName, PhysicalAddress:
		return left{}, true
	case TopicName:
		tenant, plain := v.Split()
		return plain, tenant != ""
	case TopicPartition:
		tenant, plain := v.Topic.Split()
		return TopicPartition{Topic: plain, Partition: v.Partition}, tenant != ""
	case Text:
		if v.Public == "" {
			return left{}, true
		}
		return v.Public, true
	case error:
		if e, ok := errors.AsType[*Error](v); ok && (e.public != "" || v.Error() != e.Message) {
			return errors.New(e.ForTenant().Message), true // what is around it may be of any kind
		}
	}
	return nil, false
}

// WithPublic sets what a tenant is told instead of the message.
func (e *Error) WithPublic(text string) *Error { e.public = text; return e }

// Public is what a tenant is told instead of the message; empty if that is the same.
func (e *Error) Public() string { return e.public }

// ForTenant returns the error as a tenant is told it: it is of the same kind, and says
// nothing of where data lies.
func (e *Error) ForTenant() *Error {
	_, plain := e.Subject.Topic.Split()
	if e.public == "" && e.Subject.Cluster == "" && plain == e.Subject.Topic {
		return e
	}
	told := *e
	told.Subject.Cluster, told.Subject.Topic = "", plain
	told.cause = nil // it is for logs, and can be the error as it came over the wire
	if e.public != "" {
		told.Message, told.public = e.public, ""
	}
	return &told
}
