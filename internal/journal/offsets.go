package journal

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/braidmq/braid/federation"
)

// prefixOffset begins the keys of offsets.
const prefixOffset = "offset/"

// An OffsetKey says whose offset it is, of which partition.
type OffsetKey struct {
	Group     string
	Topic     federation.TopicID
	Partition federation.LogicalPartition
}

// An Offset is a committed offset of a group.
type Offset struct {
	OffsetKey
	Offset      federation.LogicalOffset
	Epoch       federation.LogicalEpoch
	CommittedMs int64
	Metadata    string
}

// The group is last, as it may have any character.
func (k OffsetKey) key() string {
	return prefixOffset + k.Topic.String() + "/" + strconv.Itoa(int(k.Partition)) + "/" + k.Group
}

// Record returns the record of the offset.
func (o Offset) Record() Record {
	value := strconv.AppendInt(nil, int64(o.Offset), 10)
	value = strconv.AppendInt(append(value, ' '), int64(o.Epoch), 10)
	value = strconv.AppendInt(append(value, ' '), o.CommittedMs, 10)
	return Record{Key: o.key(), Value: append(append(value, ' '), o.Metadata...)}
}

// Deleted returns the record of an offset that is gone.
func (k OffsetKey) Deleted() Record { return Record{Key: k.key()} }

// ParseOffset reads a record of an offset; deleted tells that it is gone. Records
// that are no offsets are not ok.
func ParseOffset(r Record) (o Offset, deleted, ok bool, err error) {
	rest, ok := strings.CutPrefix(r.Key, prefixOffset)
	if !ok {
		return o, false, false, nil
	}
	bad := fmt.Errorf("offset record %.80q = %.40q is not one of ours", r.Key, r.Value)
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) != 3 {
		return o, false, true, bad
	}
	id, err := federation.ParseTopicID(parts[0])
	if err != nil {
		return o, false, true, bad
	}
	p, err := strconv.ParseInt(parts[1], 10, 32)
	if err != nil {
		return o, false, true, bad
	}
	o.OffsetKey = OffsetKey{Group: parts[2], Topic: id, Partition: federation.LogicalPartition(p)}
	if r.Value == nil {
		return o, true, true, nil
	}
	fields := bytes.SplitN(r.Value, []byte{' '}, 4)
	if len(fields) != 4 {
		return o, false, true, bad
	}
	var n [3]int64
	for i := range n {
		if n[i], err = strconv.ParseInt(string(fields[i]), 10, 64); err != nil {
			return o, false, true, bad
		}
	}
	o.Offset, o.Epoch, o.CommittedMs, o.Metadata = federation.LogicalOffset(n[0]), federation.LogicalEpoch(n[1]), n[2], string(fields[3])
	return o, false, true, nil
}

// Copied returns the record that says up to when a backup has copies.
func Copied(ms int64) Record { return Record{Key: keyHead, Value: strconv.AppendInt(nil, ms, 10)} }

// ParseCopied reads a record of Copied; false if it is another one.
func ParseCopied(r Record) (ms int64, ok bool) {
	if r.Key != keyHead {
		return 0, false
	}
	ms, err := strconv.ParseInt(string(r.Value), 10, 64)
	return ms, err == nil
}
