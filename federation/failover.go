package federation

// ConfigFailoverRead is the topic setting that says what readers do at an extent whose
// cluster failed: "skip" (the default) has them go on behind it, and what they had not
// read is appended again when the cluster is back; "wait" has them wait for it.
const ConfigFailoverRead = "braid.failover.read"

// FailoverWaits reports whether readers wait at an extent whose cluster failed.
func (t *Topic) FailoverWaits() bool { return t.Config[ConfigFailoverRead] == "wait" }
