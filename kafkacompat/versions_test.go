package kafkacompat

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var update = flag.Bool("update", false, "rewrite docs/kafka-api.md")

// TestTableKnowsWhatKmsgKnows fails when the codec learns a new API or version:
// it is then to be served, or left out on purpose.
func TestTableKnowsWhatKmsgKnows(t *testing.T) {
	rows := make(map[int16]*api)
	for i := range versions {
		a := &versions[i]
		require.Nil(t, rows[int16(a.key)], "%s is in the table twice", a.name)
		rows[int16(a.key)] = a
		require.True(t, i == 0 || versions[i-1].key < a.key, "%s is not in the order of keys", a.name)
	}
	var news []string
	for key := int16(0); key <= kmsg.MaxKey; key++ {
		req := kmsg.RequestForKey(key)
		if req == nil {
			continue
		}
		name := kmsg.NameForKey(key)
		a := rows[key]
		switch {
		case a == nil:
			news = append(news, fmt.Sprintf("%d %s is new (versions up to %d): add a row", key, name, req.MaxVersion()))
			continue
		case req.MaxVersion() > a.seen:
			news = append(news, fmt.Sprintf("%d %s has versions up to %d, the table knows %d: serve them or raise seen", key, name, req.MaxVersion(), a.seen))
		case req.MaxVersion() < a.max:
			news = append(news, fmt.Sprintf("%d %s has versions up to %d, the table serves %d", key, name, req.MaxVersion(), a.max))
		}
		require.NotEmpty(t, a.note, "%s: say how it behaves over several clusters, and its limits, or why it is left out", name)
		if a.handle == nil && !a.hot {
			continue
		}
		require.LessOrEqual(t, a.min, a.max, name)
		require.NotEmpty(t, operations[a.key], "%s: say in operations.go which rights it asks for, and ask for them", name)
		for v := a.min; v <= a.max; v++ {
			req.SetVersion(v)
			require.Equal(t, req.IsFlexible(), v >= a.flexible, "%s v%d: flexible", name, v)
		}
	}
	require.Empty(t, news, "kmsg knows more than versions.go:\n"+strings.Join(news, "\n"))
}

const documentPath = "../docs/kafka-api.md"

func TestAPIDocument(t *testing.T) {
	doc := document()
	if *update {
		require.NoError(t, os.WriteFile(documentPath, []byte(doc), 0o644))
	}
	b, err := os.ReadFile(documentPath)
	require.NoError(t, err)
	require.Equal(t, doc, string(b), "docs/kafka-api.md is not what versions.go says: run go generate ./kafkacompat")
}

func document() string {
	var served, left strings.Builder
	for i := range versions {
		a := &versions[i]
		if a.handle == nil && !a.hot {
			fmt.Fprintf(&left, "| %d | %s | %s |\n", a.key, a.name, a.note)
			continue
		}
		span := fmt.Sprintf("%d-%d", a.min, a.max)
		if a.min == a.max {
			span = strconv.Itoa(int(a.max))
		}
		if a.advertisedFromZero {
			span += fmt.Sprintf(" (advertised 0-%d)", a.max)
		}
		fmt.Fprintf(&served, "| %d | %s | %s | %s | %s |\n", a.key, a.name, span, operations[a.key], a.note)
	}
	return "# The Kafka API of a gateway\n\n" +
		"<!-- Generated from kafkacompat/versions.go by `go generate ./kafkacompat`; do not edit. -->\n\n" +
		"What a Kafka client that connects to braid can call, and what each call does over several\n" +
		"physical clusters. Offsets, leader epochs, topic ids, node ids and producer ids are braid's\n" +
		"own, but for one case: batches that were written before their topic was adopted keep the ids\n" +
		"of their producers, in what Fetch and DescribeProducers answer. Throttle times are those of braid's own quotas.\n\n" +
		"*Rights* are what ACLs have to allow where a gateway runs with `--authorizer acl`: those that a\n" +
		"broker asks for. Without the right to DESCRIBE a topic nobody learns whether it exists.\n\n" +
		"What a request names twice is answered once, but in OffsetCommit, OffsetDelete and\n" +
		"AlterPartitionReassignments, or refused where a broker refuses it. Large answers wait until there\n" +
		"is memory for them; one that could never fit is refused with INVALID_REQUEST for what is too much,\n" +
		"or, where an answer has no place for that, by closing the connection, with a line in the gateway's\n" +
		"log ([0019](decisions/0019-memory-budgets.md)).\n\n" +
		"## Served\n\n| Key | API | Versions | Rights | Behaviour and limits |\n|---|---|---|---|---|\n" + served.String() +
		"\n## Left out\n\nNot advertised; a request of this kind closes the connection, as at a Kafka broker that does not know it.\n\n" +
		"| Key | API | Why |\n|---|---|---|\n" + left.String()
}
