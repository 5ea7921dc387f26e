// Package matrix says which unmodified clients are tried against braid, and which features
// of each. Its test on real parts tries them all and writes docs/clients.md from what it
// saw; a cheap one holds that page and this table together.
package matrix

import (
	"maps"
	"slices"
)

// A Feature is a column of the page.
type Feature struct {
	ID, Title, Does string
	// Cases are what is tried of it with each client that does not say otherwise.
	Cases []string
}

// The cases by the protocol of the group.
const (
	classic = "classic"
	newer   = "KIP-848"
)

// Features are the columns, in their order.
var Features = []Feature{
	{"produce", "produce", "600 records with keys, in the client's default configuration; another library reads each once, in the order of its key", []string{"defaults"}},
	{"consume", "consume", "a member of a group in its default configuration reads each record once and commits what it read", []string{"defaults"}},
	{"idempotence", "idempotent producer", "the same with idempotence on, where it is not the default", []string{"on"}},
	{"gzip", "gzip", "what is stored is compressed so, and the same client reads it", []string{"gzip"}},
	{"snappy", "snappy", "the same", []string{"snappy"}},
	{"lz4", "lz4", "the same", []string{"lz4"}},
	{"zstd", "zstd", "the same", []string{"zstd"}},
	{"classic", "classic groups", "two members share the partitions, one leaves, the other takes over; each record is read once", []string{classic}},
	{"kip848", "KIP-848 groups", "the same by the newer group protocol", []string{newer}},
	{"static", "static members", "one of two static members stops and comes back: it has its partitions again, and the other noticed nothing", []string{classic, newer}},
	{"regex", "regex", "a subscription by a pattern reads the topics that fit, and no other", []string{classic, newer}},
	{"seek", "pause, seek", "a paused partition gives nothing, gives all when it goes on, and is read again from an offset that is sought", []string{"pause", "resume", "seek"}},
	{"rack", "client.rack", "a member in a zone reads from a gateway of that zone: from the start, and when one of two drains, dies, and is back", []string{classic, newer}},
	{"admin", "admin", "a topic is created, described, its configuration read, the offsets of another listed, and it is deleted", []string{"create", "describe", "configs", "offsets", "delete"}},
	{"transactions", "transactions", "a transactional producer begins", []string{"refused"}},
	{"sasl-plain", "PLAIN", "over TLS: produce, consume in a group, and no entry with a wrong password", []string{"in", "out"}},
	{"sasl-256", "SCRAM-SHA-256", "the same", []string{"in", "out"}},
	{"sasl-512", "SCRAM-SHA-512", "the same", []string{"in", "out"}},
	{"sasl-oauth", "OAUTHBEARER", "the same, with a token (JWT) of an issuer and with one that braid made", []string{"JWT", "braid's", "out"}},
	{"tools", "Kafka's own checks", "ClientCompatibilityTest ends with SUCCESS; what VerifiableProducer is told was written, VerifiableConsumer reads", []string{"ClientCompatibilityTest", "classic", "consumer"}},
}

// A Client is a row of the page.
type Client struct {
	ID, Title string
	// Without says why a feature is not tried.
	Without map[string]string
	// Cases replace those of the feature.
	Cases map[string][]string
	// Refusal is how the client names the error by which braid refuses a transactional id:
	// TRANSACTIONAL_ID_AUTHORIZATION_FAILED, and that it is final where a client tells.
	Refusal string
	// Notes are footnotes of cells; "*" is of the client. A cell with a note that starts
	// with Differs shows a known difference.
	Notes map[string]string
}

// Reasons not to try a feature.
const (
	// NotOffered is what a client does not have.
	NotOffered = "not offered"
	// NotRun is what it has, and nobody tries.
	NotRun = "not run"
	// Unfit is what has no meaning for it.
	Unfit = ""
)

// Differs starts the note of a known difference.
const Differs = "differs: "

const (
	noTransactions = Differs + "braid has no transactions yet: they are refused at once and for good, which is what is tried"
	toolsOnly      = "tools"
	javaRefusal    = "TransactionalIdAuthorizationException"
)

// CasesOf returns what is tried of a feature with a client, or why nothing is.
func (c Client) CasesOf(f Feature) (cases []string, why string) {
	if why, ok := c.Without[f.ID]; ok {
		return nil, why
	}
	if own, ok := c.Cases[f.ID]; ok {
		return own, ""
	}
	cases = f.Cases
	if _, off := c.Without["kip848"]; off {
		cases = slices.DeleteFunc(slices.Clone(cases), func(s string) bool { return s == newer })
	}
	return cases, ""
}

// without makes a map of a client's Without: the features of which it has none, and more.
func without(more map[string]string, features ...string) map[string]string {
	all := map[string]string{toolsOnly: Unfit}
	for _, f := range features {
		all[f] = NotOffered
	}
	maps.Copy(all, more)
	return all
}

// defaultIdempotent is for clients that are idempotent unless told otherwise.
var defaultIdempotent = map[string]string{"idempotence": "default"}

// What is said of racks of clients that are not tried with one, and of those that are by one
// protocol.
var (
	rackNotRun    = map[string]string{"rack": NotRun}
	rackAsPython  = map[string]string{"rack": "it is made of librdkafka, as confluent-kafka for Python is"}
	rackByClassic = map[string][]string{"rack": {classic}}
)

// refuses is for clients that have transactions.
func refuses(more map[string]string) map[string]string {
	all := map[string]string{"transactions": noTransactions}
	maps.Copy(all, more)
	return all
}

// Clients are the rows, in their order.
var Clients = []Client{
	{ID: "java-4", Title: "Java kafka-clients", Refusal: javaRefusal, Without: without(defaultIdempotent), Notes: refuses(nil)},
	{ID: "java-3", Title: "Java kafka-clients", Refusal: javaRefusal, Without: without(defaultIdempotent), Cases: rackByClassic, Notes: refuses(nil)},
	{ID: "java-2", Title: "Java kafka-clients", Refusal: javaRefusal, Without: without(nil, "kip848"), Notes: refuses(nil)},
	{
		ID: "java-1", Title: "Java kafka-clients", Refusal: javaRefusal, Without: without(nil, "kip848", "static", "zstd", "rack", "sasl-oauth"), Notes: refuses(map[string]string{
			"*":     "Apache Kafka 4 itself supports Java clients from 2.1 on (KIP-896)",
			"admin": "no listing of offsets",
		}),
		Cases: map[string][]string{"admin": {"create", "describe", "configs", "delete"}},
	},
	{
		ID: "streams", Title: "Kafka Streams", Refusal: javaRefusal, Without: streamsHasNo(), Cases: map[string][]string{"produce": {"counts"}}, Notes: map[string]string{
			"produce":      "an application that counts the records of each key, by a repartition and a changelog topic",
			"classic":      "two instances of the application, one of which leaves",
			"transactions": Differs + "exactly_once_v2 needs transactions, and ends with an error that says so",
			"kip848":       "its own group protocol (KIP-1071, group.protocol=streams) is not served; it uses the classic one by default",
		},
	},
	{ID: "confluent-python", Title: "confluent-kafka for Python", Refusal: "TRANSACTIONAL_ID_AUTHORIZATION_FAILED False", Without: without(nil), Notes: refuses(nil)},
	{ID: "confluent-go", Title: "confluent-kafka-go", Refusal: "53 false", Without: without(rackNotRun), Notes: refuses(rackAsPython)},
	{
		ID: "confluent-js", Title: "confluent-kafka-javascript", Refusal: "53", Without: without(rackNotRun), Notes: refuses(map[string]string{
			"rack":  rackAsPython["rack"],
			"*":     "the successor of node-rdkafka, built from source with the machine's libraries",
			"admin": "no reading of configurations",
		}),
		Cases: map[string][]string{"admin": {"create", "describe", "offsets", "delete"}},
	},
	{ID: "rdkafka-rust", Title: "rdkafka for Rust", Refusal: "Some(TransactionalIdAuthorizationFailed)", Without: without(rackNotRun), Notes: refuses(rackAsPython)},
	{
		ID: "kcat", Title: "kcat", Without: without(rackNotRun, "kip848", "admin", "transactions", "sasl-oauth"),
		Cases: map[string][]string{"seek": {"seek"}},
		Notes: map[string]string{"seek": "no pause", "rack": rackAsPython["rack"], "sasl-oauth": "only with a server that gives it tokens"},
	},
	{ID: "franz", Title: "franz-go", Refusal: "TRANSACTIONAL_ID_AUTHORIZATION_FAILED false", Without: without(defaultIdempotent), Cases: rackByClassic, Notes: refuses(nil)},
	{ID: "sarama", Title: "sarama", Refusal: "53", Without: without(nil, "kip848", "regex"), Notes: refuses(map[string]string{
		"produce": "without idempotence, which is its default, its first records can be in the log twice, as they can at a plain broker: where two partitions open a connection at one time, one of them can be told that there is none, and sarama closes it and sends again what was in flight. What is tried opens the connections before it writes (Broker.Open and Connected of all Client.Brokers)",
		"rack":    "when the gateway dies that coordinates its group, Consume can return after some seconds, and is called again: it begins anew, and can read some records again",
	})},
	{
		ID: "kafka-go", Title: "segmentio/kafka-go", Without: without(nil, "idempotence", "kip848", "static", "regex", "rack", "transactions", "sasl-oauth"),
		Cases: map[string][]string{"seek": {"seek"}},
		Notes: map[string]string{"seek": "no pause"},
	},
	{
		ID: "kafkajs", Title: "kafkajs", Refusal: "KafkaJSGroupCoordinatorNotFound TRANSACTIONAL_ID_AUTHORIZATION_FAILED false", Without: without(map[string]string{"lz4": NotRun}, "kip848", "static"),
		Notes: refuses(map[string]string{"transactions": noTransactions + ". It tells the application that it has not found the coordinator, and braid's reason in its log for debugging alone", "rack": Differs + "it does not say what it is (KIP-511), and is left with the leaders. When the gateway drains that coordinates its group it can read some records again, and when one dies it can give up and begin anew, so that only drains are tried", "snappy": codecPlugin, "lz4": codecPlugin + "; those of LZ4 need to be compiled for each Node", "zstd": codecPlugin}),
	},
	{ID: "aiokafka", Title: "aiokafka", Refusal: "TransactionalIdAuthorizationFailed", Without: without(nil, "kip848", "rack"), Notes: refuses(map[string]string{"admin": "offsets by the consumer"})},
	{ID: "kafka-python", Title: "kafka-python", Refusal: "TransactionalIdAuthorizationFailedError", Without: without(defaultIdempotent, "kip848"), Notes: refuses(map[string]string{"rack": Differs + "it asks the leaders again after each answer, and reads a part from them. When the gateway dies that coordinates its group it can end, so that only drains are tried"})},
	{
		ID: "tools", Title: "Apache Kafka's command-line tools", Without: map[string]string{
			"idempotence": "default", "rack": NotRun, "transactions": Unfit, "sasl-oauth": NotRun,
		},
		Cases: map[string][]string{"seek": {"seek"}},
		Notes: map[string]string{"seek": "no pause", "*": "console producer and consumer, kafka-topics, kafka-configs, kafka-get-offsets"},
	},
}

const codecPlugin = "with a codec that the application registers"

// streamsHasNo is what makes no sense for Kafka Streams, or is left to the client that it
// is made of.
func streamsHasNo() map[string]string {
	all := without(map[string]string{"kip848": NotOffered})
	for _, f := range Features {
		switch f.ID {
		case "produce", "classic", "kip848", "transactions":
		default:
			all[f.ID] = Unfit
		}
	}
	return all
}
