package federation

import "sort"

// ExtentState is the state of an extent.
//
//	open ──► sealing ──► sealed
//	  └────► suspended ──► sealed      (its cluster failed, and came back)
type ExtentState int8

// The states of an extent.
const (
	ExtentOpen      ExtentState = iota + 1 // the head: takes appends
	ExtentSealing                          // the head, about to be closed: appends are held
	ExtentSealed                           // closed: End is known
	ExtentSuspended                        // its cluster failed; End is not known yet
)

func (s ExtentState) String() string {
	switch s {
	case ExtentOpen:
		return "open"
	case ExtentSealing:
		return "sealing"
	case ExtentSealed:
		return "sealed"
	case ExtentSuspended:
		return "suspended"
	}
	return "unknown"
}

// An EpochEntry says which logical epoch batches carry from a physical leader
// epoch on, until the next entry.
type EpochEntry struct {
	Physical PhysicalEpoch
	Logical  LogicalEpoch
}

// An Extent is a contiguous range of a logical partition, stored in one
// partition of one physical topic.
//
//	logical  = Base + (physical - Start)
//
// Records of the physical partition below Start or from End on are not part of
// the logical partition.
type Extent struct {
	Number int32
	PhysicalAddress
	Base   LogicalOffset  // logical offset of the record at Start
	Start  PhysicalOffset // first physical offset of the extent
	End    PhysicalOffset // physical offset after the last; only if sealed
	State  ExtentState
	Epochs []EpochEntry // ascending in both fields; never empty in a valid map
	// Opening is the physical offset of the first opening mark: from there to Start lie
	// the producers that the extent before knew at its end. 0 = none were carried over.
	Opening PhysicalOffset
	// Copies are records below Start that are part of the extent all the same: what a move
	// of a compacted topic has taken along from the extents before, which are gone. The
	// last of them has the logical offset Base-1. Behind them, up to Start, lie openings.
	Copies PhysicalRange

	// Failed tells that the cluster of the extent failed while the extent was the head.
	Failed bool
	// Of such an extent: the physical offset after the last record that a
	// reader may have been given, and after the last one that was acknowledged.
	Seen, Acknowledged PhysicalOffset
	// Seal is the physical offset of the seal if that lies behind End: the cluster failed
	// and came back, and what lies between was appended again to a later extent.
	Seal PhysicalOffset
	// Hidden are ranges below End that are not part of the extent, ascending: their
	// producers sent them again, since a cluster failed before it answered, and the other copy
	// is part of the log.
	Hidden []PhysicalRange
	// Dropped are ranges from End to Seal that were not appended again, ascending: their
	// producers had sent them again. Only if Failed.
	Dropped []PhysicalRange
}

// A PhysicalRange holds the offsets from From to below To.
type PhysicalRange struct{ From, To PhysicalOffset }

// Hides reports whether an offset lies in a hidden range.
func (e *Extent) Hides(p PhysicalOffset) bool {
	_, ok := e.hiddenAt(p)
	return ok
}

// PastHidden returns the first offset from p on that is not hidden.
func (e *Extent) PastHidden(p PhysicalOffset) PhysicalOffset {
	for {
		r, ok := e.hiddenAt(p)
		if !ok {
			return p
		}
		p = r.To
	}
}

func (e *Extent) hiddenAt(p PhysicalOffset) (PhysicalRange, bool) {
	i := sort.Search(len(e.Hidden), func(i int) bool { return e.Hidden[i].To > p })
	if i == len(e.Hidden) || p < e.Hidden[i].From {
		return PhysicalRange{}, false
	}
	return e.Hidden[i], true
}

// Len returns how many offsets the range holds.
func (r PhysicalRange) Len() int64 { return int64(r.To - r.From) }

// Holds reports whether the range holds an offset.
func (r PhysicalRange) Holds(p PhysicalOffset) bool { return p >= r.From && p < r.To }

// hidesWithin checks the hidden ranges.
func (e *Extent) hidesWithin() bool {
	return (len(e.Hidden) == 0 || e.Sealed()) && ascending(e.Hidden, e.Start, e.End) && ascending(e.Dropped, e.End, e.Seal)
}

// ascending reports whether ranges follow each other from one offset to another.
func ascending(ranges []PhysicalRange, from, to PhysicalOffset) bool {
	for _, r := range ranges {
		if r.From < from || r.To <= r.From || r.To > to {
			return false
		}
		from = r.To
	}
	return true
}

// Sealed reports whether the end of the extent is known.
func (e *Extent) Sealed() bool { return e.State == ExtentSealed }

// Logical converts an offset of the physical partition. Offsets below Start
// convert to Base: what lies there (a primer record) is not part of the extent,
// but for the copies. Offsets above the end of a sealed extent convert to its
// logical end.
func (e *Extent) Logical(p PhysicalOffset) LogicalOffset {
	if p < e.Start {
		return e.Base - LogicalOffset(e.Copies.To-max(e.Copies.From, min(p, e.Copies.To)))
	}
	if e.Sealed() && p > e.End {
		p = e.End
	}
	return e.Base + LogicalOffset(p-e.Start)
}

// At is Logical for the first offset of a batch, which can lie before the first
// record that is part of the extent.
func (e *Extent) At(p PhysicalOffset) LogicalOffset {
	if e.Copies.To > 0 && p <= e.Copies.To {
		return e.Base - LogicalOffset(e.Copies.To-p)
	}
	return e.Base + LogicalOffset(p-e.Start)
}

// First returns the logical offset of the first record that the extent can have.
func (e *Extent) First() LogicalOffset { return e.Base - LogicalOffset(e.Copies.Len()) }

// Holds reports whether a record at a physical offset is part of the extent: it is
// not a primer or an opening before its start, not a seal or a late write behind its end.
func (e *Extent) Holds(p PhysicalOffset) bool {
	return e.Copies.Holds(p) || p >= e.Start && (!e.Sealed() || p < e.End)
}

// Physical converts a logical offset; offsets below the first convert to that one.
func (e *Extent) Physical(l LogicalOffset) PhysicalOffset {
	if l < e.Base {
		if e.Copies.Len() > 0 {
			return max(e.Copies.From, e.Copies.To-PhysicalOffset(e.Base-l))
		}
		return e.Start
	}
	return e.Start + PhysicalOffset(l-e.Base)
}

// EndOffset returns the logical offset after the extent's last record, and
// whether it is known: only for a sealed extent.
func (e *Extent) EndOffset() (LogicalOffset, bool) {
	if !e.Sealed() {
		return 0, false
	}
	return e.Base + LogicalOffset(e.End-e.Start), true
}

// Epoch returns the logical epoch that a batch of a physical leader epoch
// carries. A physical epoch above the table's last entry (the map is a moment
// behind a leader change) gets the last entry's, so a batch never carries an
// epoch that Metadata has not named.
func (e *Extent) Epoch(p PhysicalEpoch) LogicalEpoch {
	i := sort.Search(len(e.Epochs), func(i int) bool { return e.Epochs[i].Physical > p })
	if i == 0 {
		return e.firstEpoch()
	}
	return e.Epochs[i-1].Logical
}

// PhysicalEpochAt returns the largest physical epoch whose logical epoch is at
// most l, and that logical epoch; false if the extent begins above l.
func (e *Extent) PhysicalEpochAt(l LogicalEpoch) (EpochEntry, bool) {
	i := sort.Search(len(e.Epochs), func(i int) bool { return e.Epochs[i].Logical > l })
	if i == 0 {
		return EpochEntry{}, false
	}
	return e.Epochs[i-1], true
}

// LastEpoch returns the newest entry of the epoch table.
func (e *Extent) LastEpoch() EpochEntry {
	if len(e.Epochs) == 0 {
		return EpochEntry{}
	}
	return e.Epochs[len(e.Epochs)-1]
}

func (e *Extent) firstEpoch() LogicalEpoch {
	if len(e.Epochs) == 0 {
		return 0
	}
	return e.Epochs[0].Logical
}

// A HeldHead tells that a gateway holds the appends to a head that is being sealed,
// and that none that it sent before is without an answer.
type HeldHead struct {
	TopicPartition
	Extent int32 // its number
	// AcknowledgedEnd is the physical offset after the last record that the gateway
	// acknowledged to a client; 0 = none was.
	AcknowledgedEnd PhysicalOffset
	// SeenEnd is the physical offset after the last record that the gateway gave to a
	// reader; 0 = none was.
	SeenEnd PhysicalOffset
}

// SealingHeads returns the heads that are being sealed, in no order.
func (m *Map) SealingHeads() []HeldHead {
	var heads []HeldHead
	for _, t := range m.Topics {
		for _, p := range t.Partitions {
			if h := p.Head(); h != nil && h.State == ExtentSealing {
				heads = append(heads, HeldHead{TopicPartition: TopicPartition{p.Topic, p.Number}, Extent: h.Number})
			}
		}
	}
	return heads
}
