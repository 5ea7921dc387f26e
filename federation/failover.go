package federation

// ConfigFailoverRead is the topic setting that says what readers do at an extent whose
// cluster failed: "skip" (the default) has them go on behind it, and what they had not
// read is appended again when the cluster is back; "wait" has them wait for it.
const ConfigFailoverRead = "braid.failover.read"

// FailoverStep is what the first offset behind the gap of a failover is a multiple of, so
// that people see at a glance what it is.
const FailoverStep LogicalOffset = 1e12

// FailoverWaits reports whether readers wait at an extent whose cluster failed.
func (t *Topic) FailoverWaits() bool { return t.Config[ConfigFailoverRead] == "wait" }

// FailedOnce reports whether the cluster of the extent failed while the extent was the head.
// Maps of before Failed was written tell it by the rest, but for extents that nobody had
// read or written.
func (e *Extent) FailedOnce() bool {
	return e.Failed || e.State == ExtentSuspended || e.Seen > 0 || e.Acknowledged > 0 || e.Seal > 0
}
