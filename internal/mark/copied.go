package mark

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// A Copied says how far the extent of a compacted topic was copied before its seal.
type Copied struct {
	End    federation.PhysicalOffset // in the extent that ends: this is its end
	Copies federation.PhysicalRange  // in the partition that the head moves to
}

// SealCopied is Seal for an extent that was copied.
func SealCopied(s Subject, producerID int64, c Copied, at time.Time) []byte {
	m := s.message()
	m.Kind = &controlv1.Mark_Seal{Seal: &controlv1.Seal{CopiedEnd: int64(c.End), CopiesFrom: int64(c.Copies.From), CopiesTo: int64(c.Copies.To)}}
	return batch(s, KindSeal, 0, m, producerID, at)
}

// ParseCopied reads what a seal says of copies; false if there are none.
func ParseCopied(batch []byte) (Copied, bool, error) {
	value, err := valueOf(batch)
	if err != nil {
		return Copied{}, false, err
	}
	var m controlv1.Mark
	if err := proto.Unmarshal(value, &m); err != nil {
		return Copied{}, false, invalid("%w", err)
	}
	s := m.GetSeal()
	c := Copied{
		End:    federation.PhysicalOffset(s.GetCopiedEnd()),
		Copies: federation.PhysicalRange{From: federation.PhysicalOffset(s.GetCopiesFrom()), To: federation.PhysicalOffset(s.GetCopiesTo())},
	}
	if c.End < 0 || c.Copies.From < 0 || c.Copies.Len() < 0 {
		return Copied{}, false, invalid("copies from %d to %d, up to %d", c.Copies.From, c.Copies.To, c.End)
	}
	return c, c.Copies.To > 0, nil
}
