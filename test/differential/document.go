package differential

//go:generate go test -run TestDocument -update .

import (
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Document renders the list of differences for users: docs/kafka-differences.md.
func Document() string {
	const header = "| API | What is different | Why |\n|---|---|---|\n"
	var rows, moved strings.Builder
	for _, d := range Intended() {
		names := []string{"all"}
		if len(d.APIs) > 0 {
			names = names[:0]
			for _, key := range d.APIs {
				names = append(names, kmsg.NameForKey(int16(key)))
			}
		}
		row := fmt.Sprintf("| %s | %s | %s |\n", strings.Join(names, ", "), d.What, d.Why)
		if d.Moved {
			moved.WriteString(row)
		} else {
			rows.WriteString(row)
		}
	}
	return "# How answers differ from a Kafka broker's\n\n" +
		"<!-- Generated from test/differential/rules.go by `go generate ./test/differential`; do not edit. -->\n\n" +
		"`task differential` sends the same requests to a plain broker of Apache Kafka 4.3.1, to braid in\n" +
		"front of one, and to braid over two clusters, between which partitions move before their first record\n" +
		"and in the middle of what is asked: each API that braid serves in each of its versions, good requests\n" +
		"and bad ones. It compares the answers field by field. Host, port, node id, cluster id, topic id, member id and\n" +
		"producer id are each side's own; they must name the same things. What else differs is this, and\n" +
		"the run fails on anything that is not in the list:\n\n" + header + rows.String() + "\n" +
		"## Where a partition has moved\n\nWhat differs besides in partitions that have moved between clusters:\n\n" + header + moved.String() + "\n" +
		"The same run looks for the physical clusters in all fields of braid's answers (node id, port, cluster\n" +
		"id, topic ids and names, producer ids), and fails if it finds it.\n"
}
