//go:build real

package kafkacompat

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/test/realparts"
)

// unlike are the APIs that a real broker advertises otherwise, and why that is so on purpose.
// What is left out altogether has its reason in the table.
var unlike = map[kmsg.Key]string{}

// more are the APIs that it does not advertise, and why we do.
var more = map[kmsg.Key]string{
	kmsg.GetTelemetrySubscriptions: "a broker has it with a receiver only, a gateway with ClientTelemetry",
	kmsg.PushTelemetry:             "likewise",
}

// TestRealTableOfAPIs compares what is advertised with what Apache Kafka's broker
// does: with the same versions, or left out with a reason; and nothing that it lacks.
func TestRealTableOfAPIs(t *testing.T) {
	broker := realparts.StartKafka(t, 512, "versions")[0]
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker.Seed))
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "braid", "test"
	resp, err := req.RequestWith(t.Context(), cl)
	require.NoError(t, err)
	require.Zero(t, resp.ErrorCode)
	require.Greater(t, len(resp.ApiKeys), 60)

	ours := make(map[int16]kmsg.ApiVersionsResponseApiKey)
	for _, k := range advertised() {
		ours[k.ApiKey] = k
	}
	known := make(map[int16]*api)
	for i := range versions {
		known[int16(versions[i].key)] = &versions[i]
	}
	var differ []string
	for _, k := range resp.ApiKeys {
		key, have := kmsg.Key(k.ApiKey), ours[k.ApiKey]
		_, served := ours[k.ApiKey]
		delete(ours, k.ApiKey)
		switch row := known[k.ApiKey]; {
		case row == nil:
			differ = append(differ, fmt.Sprintf("%d (versions %d-%d) is not in the table", key, k.MinVersion, k.MaxVersion))
		case !served && row.note == "":
			differ = append(differ, row.name+" is left out without a reason")
		case served && (have.MinVersion != k.MinVersion || have.MaxVersion != k.MaxVersion) && unlike[key] == "":
			differ = append(differ, fmt.Sprintf("%s: versions %d-%d, a broker has %d-%d", row.name, have.MinVersion, have.MaxVersion, k.MinVersion, k.MaxVersion))
		case unlike[key] != "" && (!served || have.MinVersion == k.MinVersion && have.MaxVersion == k.MaxVersion):
			differ = append(differ, row.name+": is like a broker's, or left out; take it off the list")
		}
	}
	for key := range ours {
		if more[kmsg.Key(key)] != "" {
			continue
		}
		differ = append(differ, known[key].name+": a broker does not advertise it")
	}
	slices.Sort(differ)
	require.Empty(t, differ, strings.Join(differ, "\n"))
}
