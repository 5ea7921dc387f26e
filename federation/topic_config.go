package federation

import (
	"slices"
	"strconv"
	"strings"
)

// A configRule says which values a topic setting takes.
type configRule struct {
	kind    configKind
	min     float64
	allowed []string
}

type configKind int8

const (
	configLong configKind = iota
	configInt
	configDouble
	configBool
	configEnum
	configEnumList
	configExact // an enum whose values are compared as they are
)

// Compacted reports whether brokers compact the topic, by its own settings.
func (t *Topic) Compacted() bool { return strings.Contains(t.Config["cleanup.policy"], "compact") }

// topicConfigRules are the values that Apache Kafka 4.3 takes (LogConfig.java), and those
// of braid's own settings.
var topicConfigRules = map[string]configRule{
	ConfigFailoverRead:                {kind: configExact, allowed: []string{"skip", "wait"}},
	"cleanup.policy":                  {kind: configEnumList, allowed: []string{"compact", "delete"}},
	"compression.gzip.level":          {kind: configInt, min: -1},
	"compression.lz4.level":           {kind: configInt, min: 1},
	"compression.type":                {kind: configEnum, allowed: []string{"uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"}},
	"compression.zstd.level":          {kind: configInt, min: -131072},
	"delete.retention.ms":             {min: 0},
	"file.delete.delay.ms":            {min: 0},
	"flush.messages":                  {min: 1},
	"flush.ms":                        {min: 0},
	"index.interval.bytes":            {kind: configInt, min: 0},
	"max.compaction.lag.ms":           {min: 1},
	"max.message.bytes":               {kind: configInt, min: 0},
	"message.timestamp.after.max.ms":  {min: 0},
	"message.timestamp.before.max.ms": {min: 0},
	"message.timestamp.type":          {kind: configEnum, allowed: []string{"CreateTime", "LogAppendTime"}},
	"min.cleanable.dirty.ratio":       {kind: configDouble, min: 0},
	"min.compaction.lag.ms":           {min: 0},
	"min.insync.replicas":             {kind: configInt, min: 1},
	"preallocate":                     {kind: configBool},
	"retention.bytes":                 {min: -1},
	"retention.ms":                    {min: -1},
	"segment.bytes":                   {kind: configInt, min: 14},
	"segment.index.bytes":             {kind: configInt, min: 4},
	"segment.jitter.ms":               {min: 0},
	"segment.ms":                      {min: 1},
}

// CheckTopicConfig checks the values of the settings that are known here; what
// is not known is for the clusters to judge, which can be newer. Errors are of
// kind InvalidConfig and name the setting.
func CheckTopicConfig(topic TopicName, config map[string]string) error {
	for name, value := range config {
		rule, known := topicConfigRules[name]
		if !known {
			continue
		}
		if want := rule.refuses(value); want != "" {
			return Errorf(InvalidConfig, "topic %q: %s=%q: want %s", topic, SettingName(name), value, want)
		}
	}
	return nil
}

// refuses returns what the rule wants if value is not that.
func (r configRule) refuses(value string) (want string) {
	if r.kind != configExact {
		value = strings.TrimSpace(value)
	}
	number := func(bits int) string {
		n, err := strconv.ParseInt(value, 10, bits)
		if err != nil || float64(n) < r.min {
			return "a whole number of at least " + strconv.FormatFloat(r.min, 'f', -1, 64)
		}
		return ""
	}
	switch r.kind {
	case configInt:
		return number(32)
	case configDouble:
		if f, err := strconv.ParseFloat(value, 64); err != nil || f < r.min || f > 1 {
			return "a number between 0 and 1"
		}
	case configBool:
		if v := strings.ToLower(value); v != "true" && v != "false" {
			return "true or false"
		}
	case configEnum, configExact:
		if !slices.Contains(r.allowed, value) {
			return "one of " + strings.Join(r.allowed, ", ")
		}
	case configEnumList:
		for v := range strings.SplitSeq(value, ",") {
			if !slices.Contains(r.allowed, strings.TrimSpace(v)) && value != "" {
				return "a list of " + strings.Join(r.allowed, ", ")
			}
		}
	default:
		return number(64)
	}
	return ""
}
