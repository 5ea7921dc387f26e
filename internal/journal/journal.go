// Package journal keeps what Redis must not lose on the physical clusters: each
// version of the map, and the offsets that groups have committed. Both are
// compacted topics of one partition, written by the leading controller and read
// by it and by the recovery.
//
// A leader is fenced by Kafka itself: it writes as an idempotent producer whose
// id and epoch are made of its fencing number, so brokers refuse what a deposed
// one sends late.
package journal

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

// The names of the topics behind the logical cluster's. The names of physical
// topics end in a number (planner.PhysicalName), so none is like these.
const (
	suffixMap     = ".braid-map"
	suffixOffsets = ".braid-offsets"
)

// MapTopic returns the name of the topic that holds the map of a logical cluster.
func MapTopic(logicalCluster string) string { return logicalCluster + suffixMap }

// OffsetsTopic returns the name of the topic that holds the offsets of groups.
func OffsetsTopic(logicalCluster string) string { return logicalCluster + suffixOffsets }

// IsTopic reports whether a physical topic is a journal, of whatever logical cluster.
func IsTopic(name string) bool {
	return strings.HasSuffix(name, suffixMap) || strings.HasSuffix(name, suffixOffsets)
}

// The keys of records that are no entries of a map.
const (
	keyHead  = "head"
	keyClaim = "claim"
)

// firstProducerID begins the producer ids of journals, above those of marks.
const firstProducerID int64 = 3 << 61

// epochs is how many producer epochs there are for each producer id.
const epochs = 1 << 15

// producer returns who writes for a leader: for a higher fencing number it has a
// higher epoch, or another id.
func producer(fencing int64) recordbatch.Producer {
	return recordbatch.Producer{ID: firstProducerID + fencing/epochs, Epoch: int16(fencing % epochs)}
}

// A Record is one record of a journal; a nil Value deletes the key.
type Record struct {
	Key   string
	Value []byte
}

// A Head says which version of the map the records before it make.
type Head struct {
	Version        federation.MapVersion `json:"version"`
	Fencing        int64                 `json:"fencing"`
	LogicalCluster string                `json:"logicalCluster"`
	ClusterID      string                `json:"clusterId"` // of the logical cluster: another one is another life
	WrittenMs      int64                 `json:"writtenMs"`
}

// Delta returns the records that make the next version of a map; the head is last.
func Delta(d wire.Delta, h Head) ([]Record, error) {
	records := make([]Record, 0, len(d.Upserts)+len(d.Deletes)+1)
	for _, key := range d.Deletes {
		records = append(records, Record{Key: key})
	}
	for _, e := range d.Upserts {
		b, err := wire.Marshal(e)
		if err != nil {
			return nil, err
		}
		records = append(records, Record{Key: e.GetKey(), Value: b})
	}
	b, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("head of map %d: %w", h.Version, err)
	}
	return append(records, Record{Key: keyHead, Value: b}), nil
}

// A MapState is what a journal says of the map. The zero value is that of an empty one.
type MapState struct {
	Head Head // of version 0 if there is none
	// Fencing is the highest number of a controller that has written to the journal.
	Fencing int64
	entries map[string][]byte
	torn    bool  // records lie behind the head: their version was not finished
	bad     error // the first head that could not be read
}

// Fold takes the next record of the journal.
func (s *MapState) Fold(r Record) {
	switch {
	case r.Key == keyClaim:
		if n, err := strconv.ParseInt(string(r.Value), 10, 64); err == nil {
			s.Fencing = max(s.Fencing, n)
		}
	case r.Key == keyHead:
		var h Head
		if err := json.Unmarshal(r.Value, &h); err != nil {
			s.bad = fmt.Errorf("head of a journal: %w", err)
			return
		}
		s.Head, s.torn, s.bad = h, false, nil
		s.Fencing = max(s.Fencing, h.Fencing)
	case r.Value == nil:
		delete(s.entries, r.Key)
		s.torn = true
	default:
		if s.entries == nil {
			s.entries = make(map[string][]byte)
		}
		s.entries[r.Key] = r.Value
		s.torn = true
	}
}

// Keys returns the keys of all entries, in no order.
func (s *MapState) Keys() []string {
	keys := make([]string, 0, len(s.entries))
	for k := range s.entries {
		keys = append(keys, k)
	}
	return keys
}

// Map returns the map that the journal holds; an error if its last version was not
// written to its end, or breaks a rule.
func (s *MapState) Map() (*federation.Map, error) {
	switch {
	case s.bad != nil:
		return nil, s.bad
	case s.torn:
		return nil, fmt.Errorf("map %d: the version behind it was not written to its end", s.Head.Version)
	}
	entries := make([]*controlv1.MapEntry, 0, len(s.entries))
	for key, value := range s.entries {
		e, err := wire.Unmarshal(value)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", key, err)
		}
		if e.GetKey() != key {
			return nil, fmt.Errorf("%q holds the entry %q", key, e.GetKey())
		}
		entries = append(entries, e)
	}
	m, err := wire.Decode(s.Head.Version, entries)
	if err != nil {
		return nil, err
	}
	if m.LogicalCluster != s.Head.LogicalCluster || m.ClusterID != s.Head.ClusterID {
		return nil, fmt.Errorf("map %d: is of logical cluster %q, its head of %q", m.Version, m.LogicalCluster, s.Head.LogicalCluster)
	}
	return m, nil
}
