package planner

import (
	"github.com/braidmq/braid/federation"
)

// A CopySource is a range of a physical partition whose records are copied when the
// head of a compacted topic moves.
type CopySource struct {
	federation.PhysicalAddress

	federation.PhysicalRange                            // of the head's own, To is 0: it is not known yet
	Hidden                   []federation.PhysicalRange // of no record of the partition
}

// CopySources returns where all records of a partition lie, in their order; those of
// the head come last. An error of kind Conflict if the end of one is not known.
func CopySources(p *federation.Partition) ([]CopySource, error) {
	var out []CopySource
	for i, e := range p.Extents {
		head := i == len(p.Extents)-1
		if e.State == federation.ExtentSuspended {
			return nil, federation.Errorf(federation.Conflict, "%s-%d: its records cannot be copied while physical cluster %q is failed and has some of them", p.Topic, p.Number, e.Cluster)
		}
		if e.Copies.Len() > 0 {
			out = append(out, CopySource{PhysicalAddress: e.PhysicalAddress, PhysicalRange: e.Copies})
		}
		s := CopySource{PhysicalAddress: e.PhysicalAddress, PhysicalRange: federation.PhysicalRange{From: e.Start}, Hidden: e.Hidden}
		if !head {
			s.To = e.End
		}
		if head || s.Len() > 0 {
			out = append(out, s)
		}
	}
	return out, nil
}

// CopiesFrom returns where the copies of a partition begin that are part of its new
// extent, given where they lie, where the old head was copied up to, and how far
// retention has emptied the logs: never below where the partition begins now, so
// that it does not begin earlier than before.
func CopiesFrom(p *federation.Partition, copies federation.PhysicalRange, end federation.PhysicalOffset, logStarts map[federation.PhysicalAddress]federation.PhysicalOffset) federation.PhysicalOffset {
	base := p.Head().Logical(end)
	first := p.Extents[0].First()
	for i, e := range p.Extents {
		start, known := logStarts[e.PhysicalAddress]
		if known && i < len(p.Extents)-1 && start >= e.End {
			continue
		}
		if first = e.First(); known {
			first = e.Logical(start)
		}
		break
	}
	return min(max(copies.From, copies.To-federation.PhysicalOffset(base-first)), copies.To)
}
