package planner

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/braidmq/braid/federation"
)

// NameMax is the longest name of a topic (Topic.java MAX_NAME_LENGTH).
const NameMax = 249

// CheckTopicName checks a name as Kafka's Topic.validate does.
func CheckTopicName(name federation.TopicName) error {
	switch {
	case name == "":
		return federation.Errorf(federation.InvalidTopicName, "the topic name is empty")
	case name == "." || name == "..":
		return federation.Errorf(federation.InvalidTopicName, "the topic name cannot be %q", name)
	case len(name) > NameMax:
		return federation.Errorf(federation.InvalidTopicName, "the topic name has %d characters; at most %d are allowed: %q…", len(name), NameMax, name[:32])
	}
	for _, r := range name {
		if !nameRune(r) {
			return federation.Errorf(federation.InvalidTopicName, "topic name %q: %q is not allowed; letters, digits, '.', '_' and '-' are", name, r)
		}
	}
	return nil
}

func nameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
}

// CheckNewTopic checks the name of a topic that is to be created: it must be
// valid and free. Names that differ only by '.' and '_' collide, as in Kafka
// (Topic.hasCollision): their metrics would be the same.
func CheckNewTopic(m *federation.Map, name federation.TopicName) error {
	tenant, plain := name.Split()
	if err := CheckTopicName(plain); err != nil {
		return err
	}
	if t := m.Tenants[tenant]; tenant != "" && (t == nil || t.Deleting) {
		return federation.Errorf(federation.UnknownCluster, "topic %q: there is no tenant %q, or it is being deleted", plain, tenant)
	}
	if m.Topic(name) != nil {
		return federation.Errorf(federation.TopicExists, "topic %q exists already", name)
	}
	if !strings.ContainsAny(string(name), "._") {
		return nil
	}
	folded := fold(name)
	for other := range m.Topics {
		if fold(other) == folded {
			return federation.Errorf(federation.InvalidTopicName, "topic name %q collides with the topic %q: names may not differ by '.' and '_' only", name, other)
		}
	}
	return nil
}

func fold(name federation.TopicName) string { return strings.ReplaceAll(string(name), ".", "_") }

// PhysicalName returns the name of the topic that holds heads of a logical topic
// on each physical cluster: `<logical cluster>.<topic>.<generation>`. The
// logical cluster of a qualified name is the tenant. The
// generation counts the creations of the name, so no physical topic ever holds
// another topic's records. A name that would be too long for Kafka has its middle
// replaced by a digest.
func PhysicalName(logicalCluster string, topic federation.TopicName, generation int32) string {
	if tenant, plain := topic.Split(); tenant != "" {
		logicalCluster, topic = tenant, plain
	}
	full := fmt.Sprintf("%s.%s.%d", logicalCluster, topic, generation)
	if len(full) <= NameMax {
		return full
	}
	sum := sha256.Sum256([]byte(fold(topic)))
	tail := fmt.Sprintf("-%s.%d", hex.EncodeToString(sum[:8]), generation)
	return full[:NameMax-len(tail)] + tail
}

// CheckClusterName checks the name of a physical cluster: it appears in resource
// names, keys and on the command line.
func CheckClusterName(name federation.ClusterName) error {
	if name == "" || len(name) > 63 {
		return federation.Errorf(federation.InvalidArgument, "the name of a physical cluster needs 1 to 63 characters, not %d", len(name))
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || r != '-' && r != '_' && r != '.') {
			return federation.Errorf(federation.InvalidArgument, "physical cluster name %q: %q is not allowed there; begin with a letter or digit, then letters, digits, '-', '_' and '.'", name, r)
		}
	}
	return nil
}

// CheckLogicalCluster checks the name of a logical cluster. It begins the names
// of physical topics, so it has no '.' or '_'.
func CheckLogicalCluster(name string) error {
	if name == "" || len(name) > 63 {
		return federation.Errorf(federation.InvalidArgument, "the name of a logical cluster needs 1 to 63 characters, not %d", len(name))
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return federation.Errorf(federation.InvalidArgument, "logical cluster name %q: %q is not allowed; lower case letters, digits and '-' are", name, r)
		}
	}
	return nil
}
