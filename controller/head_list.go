package controller

import (
	"encoding/json"
	"fmt"

	"github.com/braidmq/braid/federation"
)

// A headList is saved twice in each round of a move, while appends are held: its JSON
// names each physical topic once, and has thirteen numbers for a head.
type headList []primedHead

type packedHeads struct {
	Topic  federation.TopicName         `json:"topic"`
	Places []federation.PhysicalAddress `json:"places"` // their partition means nothing
	Heads  [][headNumbers]int64         `json:"heads"`
}

// headNumbers are: partition, extent, place and partition that it moves from, place and
// partition that it moves to, primer, epoch, where its copies begin and end, up to where it was
// copied, and where its openings of returned extents begin and end. Lists of older builds have less.
const headNumbers = 13

// MarshalJSON implements json.Marshaler. All heads are of one topic.
func (l headList) MarshalJSON() ([]byte, error) {
	p := packedHeads{Heads: make([][headNumbers]int64, len(l))}
	known := make(map[federation.PhysicalAddress]int64)
	place := func(at federation.PhysicalAddress) int64 {
		at.Partition = 0
		i, ok := known[at]
		if !ok {
			i = int64(len(p.Places))
			known[at], p.Places = i, append(p.Places, at)
		}
		return i
	}
	for i, h := range l {
		p.Topic = h.Topic
		p.Heads[i] = [headNumbers]int64{
			int64(h.Partition), int64(h.Extent), place(h.From), int64(h.From.Partition), place(h.To), int64(h.To.Partition), int64(h.Primer), int64(h.Epoch),
			int64(h.Copies.From), int64(h.Copies.To), int64(h.CopiedEnd), int64(h.Openings.From), int64(h.Openings.To),
		}
	}
	return json.Marshal(p)
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *headList) UnmarshalJSON(b []byte) error {
	var p packedHeads
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	*l = make(headList, len(p.Heads))
	for i, n := range p.Heads {
		h := &(*l)[i]
		h.Topic, h.Partition, h.Extent = p.Topic, federation.LogicalPartition(n[0]), int32(n[1])
		h.Primer, h.Epoch = federation.PhysicalOffset(n[6]), federation.PhysicalEpoch(n[7])
		h.Copies = federation.PhysicalRange{From: federation.PhysicalOffset(n[8]), To: federation.PhysicalOffset(n[9])}
		h.CopiedEnd = federation.PhysicalOffset(n[10])
		h.Openings = federation.PhysicalRange{From: federation.PhysicalOffset(n[11]), To: federation.PhysicalOffset(n[12])}
		for _, x := range []struct {
			at               *federation.PhysicalAddress
			place, partition int64
		}{{&h.From, n[2], n[3]}, {&h.To, n[4], n[5]}} {
			if x.place < 0 || x.place >= int64(len(p.Places)) {
				return fmt.Errorf("head %d lies at place %d of %d", i, x.place, len(p.Places))
			}
			*x.at = p.Places[x.place]
			x.at.Partition = federation.PhysicalPartition(x.partition)
		}
	}
	return nil
}
