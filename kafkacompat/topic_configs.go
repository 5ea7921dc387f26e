package kafkacompat

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// A configKey describes a config as DescribeConfigs shows it.
type configKey struct {
	name, value string
	kind        kmsg.ConfigType
	doc         string
}

// topicConfigs are the topic configs of Apache Kafka 4.3 with their defaults
// (TopicConfig.java, LogConfig.java), and braid's own. braid stores what is set and
// applies Kafka's to every cluster that the topic has an extent on.
var topicConfigs = []configKey{
	{federation.ConfigFailoverRead, "skip", kmsg.ConfigTypeString, "What readers do at records that lie on a physical cluster that failed: skip them for now, or wait."},
	{"cleanup.policy", "delete", kmsg.ConfigTypeList, "What happens to old records: delete, compact, or both."},
	{"compression.gzip.level", "-1", kmsg.ConfigTypeInt, "The level of gzip."},
	{"compression.lz4.level", "9", kmsg.ConfigTypeInt, "The level of lz4."},
	{"compression.type", "producer", kmsg.ConfigTypeString, "How records are stored: uncompressed, zstd, lz4, snappy, gzip, or as the producer sent them."},
	{"compression.zstd.level", "3", kmsg.ConfigTypeInt, "The level of zstd."},
	{"delete.retention.ms", "86400000", kmsg.ConfigTypeLong, "How long tombstones stay in a compacted topic."},
	{"file.delete.delay.ms", "60000", kmsg.ConfigTypeLong, "How long to wait before a file is deleted."},
	{"flush.messages", "9223372036854775807", kmsg.ConfigTypeLong, "After how many records data is forced to disk."},
	{"flush.ms", "9223372036854775807", kmsg.ConfigTypeLong, "After how long data is forced to disk."},
	{"index.interval.bytes", "4096", kmsg.ConfigTypeInt, "How often an entry is added to the offset index."},
	{"max.compaction.lag.ms", "9223372036854775807", kmsg.ConfigTypeLong, "How long a record can stay uncompacted."},
	{"max.message.bytes", "1048588", kmsg.ConfigTypeInt, "The largest record batch, after compression."},
	{"message.timestamp.after.max.ms", "3600000", kmsg.ConfigTypeLong, "How far a record's timestamp may be ahead of the broker's clock."},
	{"message.timestamp.before.max.ms", "9223372036854775807", kmsg.ConfigTypeLong, "How far a record's timestamp may be behind the broker's clock."},
	{"message.timestamp.type", "CreateTime", kmsg.ConfigTypeString, "Whether timestamps are the producer's (CreateTime) or the broker's (LogAppendTime)."},
	{"min.cleanable.dirty.ratio", "0.5", kmsg.ConfigTypeDouble, "How much of a log must be dirty before it is compacted."},
	{"min.compaction.lag.ms", "0", kmsg.ConfigTypeLong, "How long a record stays uncompacted at least."},
	{"min.insync.replicas", "1", kmsg.ConfigTypeInt, "How many replicas must have a record before acks=all is answered."},
	{"preallocate", "false", kmsg.ConfigTypeBoolean, "Whether segment files are allocated ahead."},
	{"retention.bytes", "-1", kmsg.ConfigTypeLong, "How large a partition can grow before old records are deleted."},
	{"retention.ms", "604800000", kmsg.ConfigTypeLong, "How long records are kept."},
	{"segment.bytes", "1073741824", kmsg.ConfigTypeInt, "The size of a segment file."},
	{"segment.index.bytes", "10485760", kmsg.ConfigTypeInt, "The size of an index file."},
	{"segment.jitter.ms", "0", kmsg.ConfigTypeLong, "By how much segment.ms is varied."},
	{"segment.ms", "604800000", kmsg.ConfigTypeLong, "After how long a segment is rolled."},
}

// topicConfig returns the description of a topic config, and whether it is known.
func topicConfig(name string) (configKey, bool) {
	i, ok := slices.BinarySearchFunc(topicConfigs, name, func(k configKey, name string) int {
		switch {
		case k.name < name:
			return -1
		case k.name > name:
			return 1
		}
		return 0
	})
	if !ok {
		return configKey{}, false
	}
	return topicConfigs[i], true
}

// listConfigs are the configs that take APPEND and SUBTRACT besides those of type list.
func listConfig(name string) bool {
	k, ok := topicConfig(name)
	return ok && k.kind == kmsg.ConfigTypeList
}

// A described config is one as a client sees it.
type described struct {
	configKey
	value               *string
	source              kmsg.ConfigSource
	readOnly, sensitive bool
	synonyms            []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym
}

// describeTopicConfig lists all topic configs by name: those that were set, and
// Kafka's defaults.
func describeTopicConfig(set map[string]ConfigValue) []described {
	var out []described
	for _, k := range topicConfigs {
		d := described{configKey: k, value: new(k.value), source: kmsg.ConfigSourceDefaultConfig}
		d.synonyms = []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{synonym(k.name, d.value, kmsg.ConfigSourceDefaultConfig)}
		if v, ok := set[k.name]; ok {
			d.override(v)
		}
		out = append(out, d)
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if _, known := topicConfig(name); !known {
			d := described{configKey: configKey{name: name, kind: kmsg.ConfigTypeString}}
			d.override(set[name])
			out = append(out, d)
		}
	}
	return out
}

func (d *described) override(v ConfigValue) {
	d.value, d.source = new(v.Value), kmsg.ConfigSourceDynamicTopicConfig
	d.readOnly, d.sensitive = v.ReadOnly, v.Sensitive
	if d.sensitive {
		d.value = nil
	}
	d.synonyms = append([]kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{synonym(d.name, d.value, d.source)}, d.synonyms...)
}

func synonym(name string, value *string, source kmsg.ConfigSource) kmsg.DescribeConfigsResponseResourceConfigConfigSynonym {
	s := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
	s.Name, s.Value, s.Source = name, value, source
	return s
}

func values(config map[string]string) map[string]ConfigValue {
	out := make(map[string]ConfigValue, len(config))
	for k, v := range config {
		out[k] = ConfigValue{Value: v}
	}
	return out
}
