package differential

import "github.com/twmb/franz-go/pkg/kmsg"

const (
	negative = `-\d+`
)

// Intended returns the list of what differs on purpose. The first row that matches explains a
// difference; a row that explains none fails the test.
func Intended() []Difference {
	return []Difference{
		{
			APIs: []kmsg.Key{kmsg.ApiVersions}, Path: `ApiKeys\[.*`, Braid: "missing",
			What: "Fewer APIs.", Why: "What is left out has its reason in [kafka-api.md](kafka-api.md#left-out).",
		},
		{
			APIs: []kmsg.Key{kmsg.ApiVersions}, Path: `(Supported|Finalized)Features.*`,
			What: "Only the feature `group.version`.", Why: "The others are versions of a cluster's own metadata, or of transactions, share groups and streams groups, which are not offered.",
		},
		{
			Path: `(.*\.)?LeaderEpoch`, Broker: `\d+`, Braid: `\d+`,
			What: "Other leader epochs.", Why: "They are braid's own: they grow with each move of a partition, whatever the epochs of the clusters are. None is one at both (-1).",
		},
		{
			APIs: []kmsg.Key{kmsg.CreateTopics, kmsg.DescribeConfigs}, Path: `.*Configs\[(follower|leader)\.replication\.throttled\.replicas\].*|.*Configs\[(local\.retention|remote)\..*|.*Configs\[unclean\.leader\.election\.enable\].*`, Braid: "missing",
			What: "No topic settings for throttled replicas, tiered storage and unclean elections.", Why: "They are about the brokers of one cluster. Set them there.",
		},
		{
			APIs: []kmsg.Key{kmsg.CreateTopics, kmsg.DescribeConfigs}, Path: `.*Configs\[braid\.failover\.read\].*`, Broker: "missing",
			What: "A topic setting more, `braid.failover.read`.", Why: "It says what readers do while a cluster is down.",
		},
		{
			APIs: []kmsg.Key{kmsg.CreateTopics, kmsg.DescribeConfigs}, Path: `.*Configs\[min\.insync\.replicas\]\.(ConfigSynonyms.*|Source)`,
			What: "`min.insync.replicas` is a default as any other.", Why: "A broker of Kafka 4 keeps it as a setting of the cluster, which a federation is not.",
		},
		{
			APIs: []kmsg.Key{kmsg.DescribeConfigs}, Path: `Resources\[configured\]\..*ConfigSynonyms.*`,
			What: "The only synonym of a topic's setting is itself.", Why: "The settings of brokers that it falls back on are not seen.",
		},
		{
			Path: `(.*\.)?ErrorMessage`,
			What: "Other texts of errors, and texts where a broker has none or an empty one.", Why: "They say what happened and what to do, in braid's words. Programs go by the codes, which are compared.",
		},
		{
			APIs: []kmsg.Key{kmsg.DescribeConfigs}, Path: `.*Configs\[((share|streams)\..*|consumer\.assign.*)\].*`, Braid: "missing",
			What: "Two settings of groups: session timeout and heartbeat interval of consumer groups.", Why: "Share groups and streams groups are not offered, and assignments are computed as soon as they are needed, by no thread beside. Who sets one of these gets INVALID_CONFIG.",
		},
		{
			APIs: []kmsg.Key{kmsg.CreateTopics}, Label: "only look|defaults", Path: `.*\.TopicID`, Braid: "0+",
			What: "No topic id for a topic that is only validated.", Why: "A broker makes one up, which no topic gets.",
		},
		{
			APIs: []kmsg.Key{kmsg.CreateTopics}, Label: "defaults", Path: `.*\.NumPartitions`, Broker: "1", Braid: "4",
			What: "4 partitions by default.", Why: "A setting of the controllers, `num.partitions` at a broker.",
		},
		{
			APIs: []kmsg.Key{kmsg.Metadata}, Label: "by ids", Path: `Brokers.*|ClusterID|ControllerID`,
			What: "Metadata of versions 10 and 11 with topic ids has the nodes, beside the error of each topic.", Why: "A broker refuses the whole request; the nodes are right all the same.",
		},
		{
			APIs: []kmsg.Key{kmsg.DescribeTopicPartitions}, Path: `.*\.AuthorizedOperations`, Braid: `-2147483648`,
			What: "No operations on topics that do not exist.", Why: "Nobody can do anything to them.",
		},
		{
			APIs: []kmsg.Key{kmsg.Produce}, Label: "records that are null",
			What: "Records that are null are refused with INVALID_RECORD.", Why: "Apache Kafka 4.3.1 does not answer such a request at all.",
		},
		{
			APIs: []kmsg.Key{kmsg.Produce}, Path: `.*\.LogStartOffset`, Broker: `\d+`, Braid: negative,
			What: "A refused batch is answered without the log start offset.", Why: "It is refused before the cluster is asked.",
		},
		{
			APIs: []kmsg.Key{kmsg.Produce}, Label: "an unknown codec", Path: `.*\.ErrorCode`, Broker: "-1", Braid: "76",
			What: "An unknown codec is UNSUPPORTED_COMPRESSION_TYPE.", Why: "A broker says UNKNOWN_SERVER_ERROR.",
		},
		{
			APIs: []kmsg.Key{kmsg.Produce}, Label: "cut off|a header alone", Path: `.*\.ErrorCode`, Broker: "87", Braid: "2",
			What: "A batch that is cut off is CORRUPT_MESSAGE.", Why: "It may have been damaged on its way, and clients send it again; a broker says INVALID_RECORD.",
		},
		{
			APIs: []kmsg.Key{kmsg.Produce}, Label: "a transactional id", Path: `.*\.(ErrorCode|BaseOffset)`,
			What: "A request with a transactional id is refused, whatever is in it.", Why: "Transactions are not offered; a broker takes batches that are in none.",
		},
		{
			APIs: []kmsg.Key{kmsg.Produce}, Label: "idempotent: another epoch in the middle", Path: `.*\.ErrorCode`, Broker: "45", Braid: "6",
			What: "A first batch of an epoch that does not begin at sequence 0 is refused so that clients try again.", Why: "Batches of one producer can come by several gateways; the earlier ones may be on their way ([0011](decisions/0011-producers-after-the-seal.md)).",
		},
		{
			APIs: []kmsg.Key{kmsg.InitProducerID}, Label: "producer ids are there", Path: `ProducerID`, Broker: "0",
			What: "Producer ids begin at 2^48.", Why: "They are braid's own and valid on all clusters.",
		},
		{
			APIs: []kmsg.Key{kmsg.InitProducerID}, Label: "the next epoch", Path: `Producer(ID|Epoch)`,
			What: "A producer without a transactional id that asks for its next epoch keeps its id.", Why: "A broker gives it another id; what it sends after either is a new sequence.",
		},
		{
			APIs: []kmsg.Key{kmsg.Fetch}, Path: `.*\.AbortedTransactions`, Broker: `\[\]`, Braid: "null",
			What: "No list of aborted transactions, instead of an empty one.", Why: "Clients take both alike.",
		},
		{
			APIs: []kmsg.Key{kmsg.FindCoordinator}, Label: "a share group", Path: `.*\.ErrorCode`, Broker: "15", Braid: "42",
			What: "Coordinators of share groups are refused for good.", Why: "Share groups are not offered.",
		},
		{
			APIs: []kmsg.Key{kmsg.DeleteGroups}, Path: `Groups\[""\]\.ErrorCode`, Broker: "69", Braid: "24",
			What: "A group without a name is INVALID_GROUP_ID.", Why: "A broker looks for it, and says that it is not found.",
		},
		{
			APIs: []kmsg.Key{kmsg.ConsumerGroupHeartbeat, kmsg.ConsumerGroupDescribe}, Path: `(.*\.)?(Member|Assignment)?Epoch`, Broker: `\d+`, Braid: `\d+`,
			What: "A group of the newer protocol begins at epoch 1.", Why: "A broker of 4.3 counts the first assignment as one more change.",
		},
		{
			APIs: []kmsg.Key{kmsg.ConsumerGroupDescribe}, Path: `.*\.SubscribedTopicRegex`, Broker: "", Braid: "null",
			What: "A member without a regular expression has none, instead of an empty one.", Why: "Clients take both alike.",
		},
		{
			APIs: []kmsg.Key{kmsg.DescribeLogDirs}, Path: `.*\.(Dir|TotalBytes|UsableBytes)`, Braid: `/braid|-1`,
			What: "One log directory `/braid` of unknown size.", Why: "Disks of brokers are not seen.",
		},
		{
			APIs: []kmsg.Key{kmsg.ElectLeaders}, Label: "elect all", Path: `Topics.*`,
			What: "An election of all partitions names none.", Why: "None needed one; a broker names all topics, without partitions.",
		},
		{
			APIs: []kmsg.Key{kmsg.ElectLeaders}, Label: "elect in a way that is none", Path: `Topics.*`,
			What: "An election of an unknown kind is refused as a whole.", Why: "A broker repeats the error for each partition.",
		},
		{
			APIs: []kmsg.Key{kmsg.Fetch}, Path: `.*\.RecordBatches\[0\]\.PartitionLeaderEpoch`, Broker: `\d+`, Braid: `\d+`, Moved: true,
			What: "Batches have the leader epochs of their partition, not those of the cluster that they lie on.", Why: "They grow with each move, as those that Metadata tells, and clients compare the two.",
		},
		{
			APIs: []kmsg.Key{kmsg.Fetch}, Path: `.*\.RecordBatches\[[1-9]\]\..*`, Braid: "missing", Moved: true,
			What: "An answer ends where the partition goes on on another cluster.", Why: "One read is of one log; the next request goes on in the next one, without a wait.",
		},
		{
			APIs: []kmsg.Key{kmsg.Produce}, Label: "idempotent: (the same again, elsewhere|the one before, once more)", Path: `.*\.LogAppendTime`, Broker: `\d+`, Braid: "-1", Moved: true,
			What: "What was written before a move and is sent again is answered with its offset, without its time.", Why: "A move carries the offsets of a producer's last batches along, and not their times.",
		},
		{
			APIs: []kmsg.Key{kmsg.Produce}, Label: "idempotent: a gap, elsewhere", Path: `.*\.ErrorCode`, Broker: "45", Braid: "6", Moved: true,
			What: "A gap in the first batch that a producer sends behind a move is refused so that clients try again.", Why: "The batches before it may be on their way, refused by the cluster that the partition has left ([0011](decisions/0011-producers-after-the-seal.md)).",
		},
		{
			APIs: []kmsg.Key{kmsg.DescribeProducers}, Path: `.*\.LastTimestamp`, Broker: `\d+`, Braid: "-1", Moved: true,
			What: "Producers that were carried over by a move have no last timestamp.", Why: "It is not carried.",
		},
		{
			APIs: []kmsg.Key{kmsg.DescribeLogDirs}, Path: `.*\.Size`, Broker: `\d+`, Braid: `\d+`, Moved: true,
			What: "Sizes are larger.", Why: "Some records of braid's own open and close each part, and take up space on the clusters.",
		},
	}
}
