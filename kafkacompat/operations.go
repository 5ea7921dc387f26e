package kafkacompat

import "github.com/twmb/franz-go/pkg/kmsg"

// operations says which rights each API asks for, for docs/kafka-api.md. A test holds it
// to the APIs that are served, and another one each of them to what it says.
var operations = map[kmsg.Key]string{
	kmsg.Produce:                 "WRITE topic",
	kmsg.Fetch:                   "READ topic",
	kmsg.ListOffsets:             "DESCRIBE topic",
	kmsg.Metadata:                "DESCRIBE topic; others are left out of a list. CREATE cluster or topic for those created on first use",
	kmsg.OffsetCommit:            "READ group and topic",
	kmsg.OffsetFetch:             "DESCRIBE group and topic",
	kmsg.FindCoordinator:         "DESCRIBE group",
	kmsg.JoinGroup:               "READ group",
	kmsg.Heartbeat:               "READ group",
	kmsg.LeaveGroup:              "READ group",
	kmsg.SyncGroup:               "READ group",
	kmsg.DescribeGroups:          "DESCRIBE group",
	kmsg.ListGroups:              "DESCRIBE cluster, or of each group; others are left out",
	kmsg.ApiVersions:             "–",
	kmsg.CreateTopics:            "CREATE cluster or topic; DESCRIBE_CONFIGS topic to be told the configs",
	kmsg.DeleteTopics:            "DELETE cluster or topic",
	kmsg.DeleteRecords:           "DELETE topic",
	kmsg.InitProducerID:          "IDEMPOTENT_WRITE cluster, or WRITE any topic",
	kmsg.OffsetForLeaderEpoch:    "DESCRIBE topic",
	kmsg.DescribeACLs:            "DESCRIBE cluster",
	kmsg.CreateACLs:              "ALTER cluster",
	kmsg.DeleteACLs:              "ALTER cluster",
	kmsg.DescribeConfigs:         "DESCRIBE_CONFIGS topic, group, or for nodes cluster",
	kmsg.AlterConfigs:            "ALTER_CONFIGS topic, group, or for nodes cluster",
	kmsg.CreatePartitions:        "ALTER topic",
	kmsg.DeleteGroups:            "DELETE group",
	kmsg.IncrementalAlterConfigs: "ALTER_CONFIGS topic, group, or for nodes cluster",
	kmsg.OffsetDelete:            "DELETE group, READ topic",
	kmsg.DescribeCluster:         "–; DESCRIBE cluster to be told the operations that are allowed",
	kmsg.ListConfigResources:     "DESCRIBE_CONFIGS cluster",
	kmsg.DescribeTopicPartitions: "DESCRIBE topic; others are left out of a list",
}
