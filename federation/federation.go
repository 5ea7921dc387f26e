// Package federation says what a logical topic is: partitions as chains of
// extents, each stored in one partition of one physical Kafka cluster.
//
// It holds the immutable map of a logical cluster, the only code that converts
// between logical and physical offsets and epochs, the rule that assigns
// gateways to clients, and the error kinds that all of braid shares. It is
// pure: no clock, no network, no goroutine.
package federation

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
)

// DefaultLogicalCluster is the logical cluster of clients that name none.
const DefaultLogicalCluster = "default"

type (
	// A LogicalOffset is a position that a client sees. Extent converts.
	LogicalOffset int64
	// A PhysicalOffset is a position inside the physical partition of an extent.
	PhysicalOffset int64
)

type (
	// A LogicalEpoch is a leader epoch that a client sees.
	LogicalEpoch int32
	// A PhysicalEpoch is the leader epoch of a partition of a physical cluster.
	PhysicalEpoch int32
)

// NoEpoch is what a client sends that knows no leader epoch.
const NoEpoch LogicalEpoch = -1

// A MapVersion counts the changes of a map; it only grows.
type MapVersion int64

type (
	// ClusterName names a physical cluster.
	ClusterName string
	// TopicName names a logical topic.
	TopicName string
	// GatewayID names a gateway.
	GatewayID string
	// NodeID is the Kafka node id of a gateway, never given to another one.
	NodeID int32
	// A LogicalPartition is a partition number that a client sees.
	LogicalPartition int32
	// A PhysicalPartition is a partition number of a physical topic.
	PhysicalPartition int32
)

// A TopicID is the Kafka topic id of a logical topic: random, stable for the
// topic's life, the same at all gateways (KIP-516).
type TopicID [16]byte

// NewTopicID returns a random version 4 UUID that no Kafka client takes for a
// reserved one: never zero and, as in Kafka's Uuid.randomUuid, not beginning
// with a dash in its text form.
func NewTopicID() TopicID {
	for {
		var id TopicID
		_, _ = rand.Read(id[:]) // never fails since Go 1.24
		id[6] = id[6]&0x0f | 0x40
		id[8] = id[8]&0x3f | 0x80
		if id.String()[0] != '-' {
			return id
		}
	}
}

// String returns the id as Kafka prints it: URL-safe base64, 22 characters.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// ParseTopicID reads what String wrote.
func ParseTopicID(s string) (TopicID, error) {
	var id TopicID
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("topic id %q: want 22 characters of URL-safe base64", s)
	}
	copy(id[:], b)
	return id, nil
}

// A TopicPartition is a logical partition of a logical topic.
type TopicPartition struct {
	Topic     TopicName
	Partition LogicalPartition
}

func (tp TopicPartition) String() string { return fmt.Sprintf("%s-%d", tp.Topic, tp.Partition) }

// A PhysicalAddress is a partition of a topic of a physical cluster.
type PhysicalAddress struct {
	Cluster   ClusterName
	Topic     string
	Partition PhysicalPartition
}

func (a PhysicalAddress) String() string {
	return fmt.Sprintf("%s/%s-%d", a.Cluster, a.Topic, a.Partition)
}
