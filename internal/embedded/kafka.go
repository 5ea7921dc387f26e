package embedded

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// The embedded clusters keep what Kafka keeps by default, 7 days; without a data
// directory also no more than memoryBytesMax for each partition, because it is
// all in memory. Retention and compaction run every maintenanceInterval: on its
// own, kfake runs them only if some topic has settings for it.
const (
	memoryBytesMax      = 256 << 20
	maintenanceInterval = 30 * time.Second
)

// Kafka is an embedded Kafka cluster.
type Kafka struct {
	Name string
	// Fake is the cluster, for faults.
	Fake *kfake.Cluster

	id    string
	seeds []string
	tasks sync.WaitGroup
	stop  chan struct{}
}

// KafkaOptions say what an embedded Kafka cluster is like.
type KafkaOptions struct {
	Name    string
	Brokers int    // 3 by default
	Listen  Listen // nil = TCP
	// Dir keeps its data, its cluster id and its ports over restarts; empty = memory.
	// A crash loses what the operating system has not written yet. A partition whose
	// records were all deleted by retention begins again at offset 0 after a restart,
	// so with a directory nothing is deleted unless a topic's own settings say so.
	Dir string
	// Options go to kfake behind all others.
	Options []kfake.Opt
}

// identity is what a cluster keeps in its directory besides its data.
type identity struct {
	ClusterID string `json:"clusterId"`
	Ports     []int  `json:"ports"`
}

// StartKafka starts an embedded Kafka cluster.
func StartKafka(o KafkaOptions) (*Kafka, error) {
	if o.Brokers == 0 {
		o.Brokers = 3
	}
	id, err := o.identity()
	if err != nil {
		return nil, err
	}
	cluster, err := kfake.NewCluster(o.options(id)...)
	if err != nil && len(id.Ports) > 0 {
		id.Ports = nil // somebody else has them now
		cluster, err = kfake.NewCluster(o.options(id)...)
	}
	if err != nil {
		return nil, fmt.Errorf("embedded kafka cluster %q: %w", o.Name, err)
	}
	k := &Kafka{Name: o.Name, Fake: cluster, id: id.ClusterID, seeds: cluster.ListenAddrs(), stop: make(chan struct{})}
	if err := o.remember(id, k.seeds); err != nil {
		cluster.Close()
		return nil, err
	}
	k.tasks.Go(k.maintain)
	return k, nil
}

// Seeds are its brokers' addresses.
func (k *Kafka) Seeds() []string { return k.seeds }

// ClusterID is the cluster id that its brokers report.
func (k *Kafka) ClusterID() string { return k.id }

// Close stops it.
func (k *Kafka) Close() {
	close(k.stop)
	k.tasks.Wait()
	k.Fake.Close()
}

func (k *Kafka) maintain() {
	tick := time.NewTicker(maintenanceInterval)
	defer tick.Stop()
	for {
		select {
		case <-k.stop:
			return
		case <-tick.C:
			k.Fake.Compact() // applies retention too
		}
	}
}

func (o KafkaOptions) options(id identity) []kfake.Opt {
	configs := map[string]string{"log.retention.bytes": strconv.Itoa(memoryBytesMax)}
	if o.Dir != "" {
		configs = map[string]string{"log.retention.ms": "-1", "log.retention.bytes": "-1"}
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(o.Brokers),
		kfake.ClusterID(id.ClusterID),
		kfake.BrokerConfigs(configs),
	}
	if o.Listen != nil {
		opts = append(opts, kfake.ListenFn(o.Listen))
	}
	if o.Dir != "" {
		opts = append(opts, kfake.DataDir(filepath.Join(o.Dir, "data")))
	}
	if len(id.Ports) == o.Brokers {
		opts = append(opts, kfake.Ports(id.Ports...))
	}
	return append(opts, o.Options...)
}

func (o KafkaOptions) file() string { return filepath.Join(o.Dir, "cluster.json") }

// identity returns the one of the last run, or a new one.
func (o KafkaOptions) identity() (identity, error) {
	id := identity{ClusterID: "embedded-" + o.Name + "-" + rand.Text()[:8]}
	if o.Dir == "" {
		return id, nil
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return id, fmt.Errorf("embedded kafka cluster %q: %w", o.Name, err)
	}
	b, err := os.ReadFile(o.file())
	if errors.Is(err, os.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, fmt.Errorf("embedded kafka cluster %q: %w", o.Name, err)
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("embedded kafka cluster %q: %s: %w", o.Name, o.file(), err)
	}
	return id, nil
}

func (o KafkaOptions) remember(id identity, seeds []string) error {
	if o.Dir == "" {
		return nil
	}
	id.Ports = nil
	for _, s := range seeds {
		port, err := portOf(s)
		if err != nil {
			return fmt.Errorf("embedded kafka cluster %q: %w", o.Name, err)
		}
		id.Ports = append(id.Ports, port)
	}
	b, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("embedded kafka cluster %q: %w", o.Name, err)
	}
	if err := os.WriteFile(o.file(), b, 0o600); err != nil {
		return fmt.Errorf("embedded kafka cluster %q: %w", o.Name, err)
	}
	return nil
}
