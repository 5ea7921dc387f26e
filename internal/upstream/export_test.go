package upstream

import "context"

// ScanProducers reads the states of a partition's producers from its log, also
// where the broker lists them.
func (c *Cluster) ScanProducers(ctx context.Context, p Partition) (ProducerStates, error) {
	return c.scanProducers(ctx, p)
}
