package federation

// ConfigFailoverRead is the topic setting that says what readers do at records that
// they cannot have, since the cluster that holds them failed.
const ConfigFailoverRead = "braid.failover.read"

// The values of ConfigFailoverRead.
const (
	FailoverSkip = "skip" // they go on behind them; this is the default
	FailoverWait = "wait" // they wait until the cluster is back, so that the order stays
)

// FailoverWaits reports whether readers of the topic wait for suspended extents.
func (t *Topic) FailoverWaits() bool { return t.Config[ConfigFailoverRead] == FailoverWait }
