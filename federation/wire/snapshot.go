package wire

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// PartBytesMax bounds one part of a snapshot. A single entry above it rides alone.
const PartBytesMax = 1 << 20

// PartsMax bounds the parts of a snapshot that an Assembler takes.
const PartsMax = 4096

var (
	errKey     = errors.New("the key does not fit the value")
	errNoValue = errors.New("has no value that this build knows")
)

// Snapshot returns a map as the control stream carries it. Its entries are all of
// one version, so they do not say it: of a large map that is one byte in 25.
func Snapshot(m *federation.Map) []*controlv1.MapSnapshot {
	// An entry costs its size, its tag and a length; a part its own fields.
	const entryOverhead, partOverhead = 1 + 5, 64
	var parts []*controlv1.MapSnapshot
	var part *controlv1.MapSnapshot
	size := 0
	for _, e := range entries(m, 0) {
		n := proto.Size(e) + entryOverhead
		if part == nil || size+n > PartBytesMax {
			part = &controlv1.MapSnapshot{Version: int64(m.Version), Part: int32(len(parts))}
			parts = append(parts, part)
			size = partOverhead
		}
		part.Entries = append(part.Entries, e)
		size += n
	}
	for _, p := range parts {
		p.Parts = int32(len(parts))
	}
	return parts
}

// An Assembler puts the parts of one snapshot together. The zero value is ready.
type Assembler struct {
	version int64
	parts   int32
	next    int32
	entries []*controlv1.MapEntry
}

// Add takes the next part and returns the map after the last one, nil before it.
// Part 0 begins anew, so a snapshot that was broken off does no harm. After an
// error the Assembler waits for the next part 0.
func (a *Assembler) Add(p *controlv1.MapSnapshot) (*federation.Map, error) {
	if p.GetParts() <= 0 || p.GetParts() > PartsMax || p.GetPart() < 0 || p.GetPart() >= p.GetParts() || p.GetVersion() < 0 {
		*a = Assembler{}
		return nil, fmt.Errorf("snapshot of map %d: bad part %d of %d", p.GetVersion(), p.GetPart(), p.GetParts())
	}
	if p.GetPart() == 0 {
		*a = Assembler{version: p.GetVersion(), parts: p.GetParts()}
	}
	if a.version != p.GetVersion() || a.parts != p.GetParts() || a.next != p.GetPart() {
		want := a.next
		*a = Assembler{}
		return nil, fmt.Errorf("snapshot of map %d: part %d came instead of %d", p.GetVersion(), p.GetPart(), want)
	}
	a.next++
	a.entries = append(a.entries, p.GetEntries()...)
	if a.next < a.parts {
		return nil, nil // not complete yet
	}
	entries := a.entries
	*a = Assembler{}
	return Decode(federation.MapVersion(p.GetVersion()), entries)
}
