package gateway

import (
	"bytes"
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// auditBytesMax bounds what the audit log has of a request.
const auditBytesMax = 1 << 10

// A Change is what a call of the admin services changes, as the audit log names it.
type Change struct {
	Operation acl.Operation
	Resource  acl.Resource
	Name      string
}

// ChangeOf returns what a call of the admin services would change; false if it only looks.
func ChangeOf(procedure string, msg any) (Change, bool) {
	rights, changes := adminRights(procedure, msg)
	if !changes {
		return Change{}, false
	}
	about := rights[len(rights)-1]
	return Change{about.op, about.res, audited(about, msg)}, true
}

// audited is the name that the audit log has for what a call changes: that of the topic or
// group, and of a change of the cluster the request itself, as the cluster's name says
// nothing of whose ACLs, which user or which physical cluster it is about.
func audited(about right, msg any) string {
	m, ok := msg.(proto.Message)
	if about.res != acl.Cluster || !ok {
		return about.name
	}
	shown := proto.Clone(m)
	withoutSecrets(shown.ProtoReflect())
	var text bytes.Buffer
	b, err := protojson.Marshal(shown)
	if err != nil || json.Compact(&text, b) != nil {
		return federation.ACLClusterName
	}
	if text.Len() > auditBytesMax {
		text.Truncate(auditBytesMax)
		return strings.ToValidUTF8(text.String(), "") + "…"
	}
	return text.String()
}

// withoutSecrets clears what proves a user, wherever it is in a message.
func withoutSecrets(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case unlogged(f):
			m.Clear(f)
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				withoutSecrets(v.List().Get(i).Message())
			}
		default:
			withoutSecrets(v.Message())
		}
		return true
	})
}

// unlogged reports whether a field is, or may be, a secret, or says nothing.
func unlogged(f protoreflect.FieldDescriptor) bool {
	if f.Kind() == protoreflect.BytesKind || f.Name() == "request_id" {
		return true
	}
	for _, word := range []string{"password", "secret", "token", "salt", "key"} {
		if strings.Contains(string(f.Name()), word) {
			return true
		}
	}
	return false
}
