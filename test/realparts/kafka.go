package realparts

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"text/template"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var (
	//go:embed kafka/pom.xml
	pom string
	//go:embed kafka/server.properties
	serverProperties string
	//go:embed kafka/log4j2.properties
	log4j string
)

// Jars returns a directory with the jars of Apache Kafka: server, tools and
// clients, and its log settings.
func Jars(t TB) string {
	t.Helper()
	Java(t)
	return Cached(t, "kafka", pom+log4j, func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "pom.xml"), []byte(pom), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "log4j2.properties"), []byte(log4j), 0o644); err != nil {
			return err
		}
		return Install(dir, Maven(t), "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib")
	})
}

// JavaCommand returns the command line of a main class of Kafka's jars, or of
// classes in the given directories.
func JavaCommand(t TB, heapMB int, classpath []string, mainClass string, args ...string) []string {
	t.Helper()
	jars := Jars(t)
	path := filepath.Join(jars, "lib", "*")
	for _, dir := range classpath {
		path = dir + string(os.PathListSeparator) + path
	}
	command := []string{
		Java(t), fmt.Sprintf("-Xmx%dm", heapMB), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		"-Dlog4j2.configurationFile=" + filepath.Join(jars, "log4j2.properties"), "-cp", path, mainClass,
	}
	return append(command, args...)
}

// Kafka is a cluster of one real broker, or one more broker of such a cluster.
type Kafka struct {
	Name      string
	Seed      string // host:port
	ClusterID string
	NodeID    int32

	dir            string
	heap           int
	controllerID   int32
	controllerPort int
	proc           *Process
	secure         *secureKafka // nil = plain text only
	racked         *rackedKafka // nil = no rack
}

// StartKafka starts one cluster for each name, all at once, and waits until they
// serve. heapMB is each broker's heap.
func StartKafka(t TB, heapMB int, names ...string) []*Kafka {
	t.Helper()
	return StartKafkaAs(t, heapMB, 1, names...)
}

// StartKafkaAs is StartKafka with another node id than 1, for tests that look for it where it
// must not be.
func StartKafkaAs(t TB, heapMB int, nodeID int32, names ...string) []*Kafka {
	t.Helper()
	Jars(t) // once, before they all want it
	all := make([]*Kafka, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		all[i] = newKafka(t, heapMB, nodeID, name)
		wg.Go(func() { errs[i] = all[i].create(t) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("kafka: %v", err)
	}
	return all
}

func newKafka(t TB, heapMB int, nodeID int32, name string) *Kafka {
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	id[0] &= 0x3f // Kafka refuses ids that begin with a dash
	return &Kafka{
		Name: name, ClusterID: base64.RawURLEncoding.EncodeToString(id), NodeID: nodeID, dir: t.TempDir(), heap: heapMB, controllerID: nodeID, controllerPort: FreePort(t),
	}
}

// AddBroker starts one more broker of the cluster, with a node id of its own above 1, and waits
// until it serves. The first broker stays the controller.
func (k *Kafka) AddBroker(t TB, nodeID int32) *Kafka {
	t.Helper()
	b := k.another(t, nodeID)
	if err := b.create(t); err != nil {
		t.Fatalf("kafka: %v", err)
	}
	return b
}

func (k *Kafka) another(t TB, nodeID int32) *Kafka {
	return &Kafka{
		Name: fmt.Sprintf("%s-%d", k.Name, nodeID), ClusterID: k.ClusterID, NodeID: nodeID, dir: t.TempDir(), heap: k.heap, controllerID: k.controllerID, controllerPort: k.controllerPort,
	}
}

func (k *Kafka) create(t TB) error {
	port := FreePort(t)
	k.Seed = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	properties, err := os.Create(k.properties())
	if err != nil {
		return err
	}
	defer func() { _ = properties.Close() }()
	settings := struct {
		NodeID, ControllerID int32
		Port, ControllerPort int
		Dir                  string
		Listeners, Settings  string // of a secure one
	}{NodeID: k.NodeID, ControllerID: k.controllerID, Port: port, ControllerPort: k.controllerPort, Dir: k.dir}
	var formatArgs []string
	if k.secure != nil {
		settings.Listeners, settings.Settings, formatArgs = k.secure.listeners(), k.secure.settings(), k.secure.users()
	}
	settings.Settings += k.racked.settings()
	if err := template.Must(template.New("").Parse(serverProperties)).Execute(properties, settings); err != nil {
		return err
	}
	format := JavaCommand(t, 128, nil, "kafka.tools.StorageTool", append([]string{"format", "-t", k.ClusterID, "-c", k.properties()}, formatArgs...)...)
	if err := Output(k.dir, format[0], format[1:]...); err != nil {
		return fmt.Errorf("format cluster %q: %w", k.Name, err)
	}
	return k.start(t)
}

func (k *Kafka) properties() string { return filepath.Join(k.dir, "server.properties") }

func (k *Kafka) start(t TB) (err error) {
	command := slices.Insert(JavaCommand(t, k.heap, nil, "kafka.Kafka", k.properties()), 1, append(k.secure.javaArgs(), k.racked.javaArgs()...)...)
	if k.proc, err = StartProcess(t, "kafka-"+k.Name, k.dir, command...); err != nil {
		return err
	}
	return k.proc.Ready(k.serves)
}

// serves returns nil when the broker is a member of its own cluster and has a controller.
func (k *Kafka) serves() error {
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Seed), kgo.RequestRetries(0), kgo.DialTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, client); err != nil {
		return err
	}
	metadata, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, client)
	switch {
	case err != nil:
		return err
	case len(metadata.Brokers) == 0 || metadata.ControllerID < 0:
		return fmt.Errorf("cluster %q has no broker yet", k.Name)
	}
	return nil
}

// PID is the broker's process id.
func (k *Kafka) PID() int { return k.proc.PID() }

// Kill ends the broker as its death would.
func (k *Kafka) Kill() { k.proc.Kill() }

// Restart starts a killed broker again, with its data and its ports.
func (k *Kafka) Restart(t TB) {
	t.Helper()
	if err := k.start(t); err != nil {
		t.Fatalf("kafka: %v", err)
	}
}
