package realparts

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A rackedKafka is what a broker has that stands in a rack, and whose metrics can be asked
// for.
type rackedKafka struct {
	rack    string
	jmxPort int
}

// StartKafkaInRacks starts one cluster with a broker in each rack, with node ids from 1 on,
// and waits until they serve. Leaders name the replica in the rack of who reads. A broker
// that is gone is missed after 3 s, and followers hear of the high watermark within 100 ms.
func StartKafkaInRacks(t TB, heapMB int, name string, racks ...string) []*Kafka {
	t.Helper()
	Jars(t)
	all, errs := make([]*Kafka, len(racks)), make([]error, len(racks))
	var wg sync.WaitGroup
	for i, rack := range racks {
		if i == 0 {
			all[i] = newKafka(t, heapMB, 1, name)
		} else {
			all[i] = all[0].another(t, int32(i+1))
		}
		all[i].racked = &rackedKafka{rack: rack, jmxPort: FreePort(t)}
		wg.Go(func() { errs[i] = all[i].create(t) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("kafka: %v", err)
	}
	return all
}

func (r *rackedKafka) settings() string {
	if r == nil {
		return ""
	}
	return "broker.rack=" + r.rack + `
replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector
broker.heartbeat.interval.ms=500
replica.fetch.wait.max.ms=100
broker.session.timeout.ms=3000
`
}

func (r *rackedKafka) javaArgs() []string {
	if r == nil {
		return nil
	}
	const jmx = "-Dcom.sun.management.jmxremote"
	port := strconv.Itoa(r.jmxPort)
	return []string{jmx + ".port=" + port, jmx + ".rmi.port=" + port, jmx + ".authenticate=false", jmx + ".ssl=false", jmx + ".host=127.0.0.1", "-Djava.rmi.server.hostname=127.0.0.1"}
}

// BytesOut asks a broker of StartKafkaInRacks how many bytes of a topic consumers have
// fetched from it, by its metric BytesOutPerSec; what other brokers replicate is not in it.
func (k *Kafka) BytesOut(t TB, topic string) int64 {
	t.Helper()
	command := JavaCommand(t, 64, nil, "org.apache.kafka.tools.JmxTool", "--one-time", "--report-format", "properties", "--attributes", "Count",
		"--jmx-url", fmt.Sprintf("service:jmx:rmi:///jndi/rmi://127.0.0.1:%d/jmxrmi", k.racked.jmxPort),
		"--object-name", "kafka.server:type=BrokerTopicMetrics,name=BytesOutPerSec,topic="+topic)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output()
	if err != nil {
		t.Fatalf("JmxTool: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if _, count, ok := strings.Cut(line, ":Count="); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(count), 10, 64)
			if err != nil {
				t.Fatalf("JmxTool: %v in %q", err, line)
			}
			return n
		}
	}
	return 0 // nothing was fetched yet
}
