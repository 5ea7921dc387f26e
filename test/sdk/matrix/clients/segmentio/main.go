// Command segmentio runs segmentio/kafka-go; README.md of the directory above has the
// commands. It is a module of its own, so that braid's has no second Kafka client.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

func main() {
	commands := map[string]func(args []string) error{
		"version": func([]string) error { return version("github.com/segmentio/kafka-go") },
		"produce": produce, "consume": consume, "seek": seek, "admin": admin,
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	say("done")
}

func say(fields ...any) {
	texts := make([]string, len(fields))
	for i, f := range fields {
		texts[i] = strings.NewReplacer("\t", " ", "\n", " ").Replace(fmt.Sprint(f))
	}
	fmt.Println(strings.Join(texts, "\t"))
}

// version is that of the library's module.
func version(module string) error {
	info, _ := debug.ReadBuildInfo()
	for _, m := range info.Deps {
		if m.Path == module {
			say("version", m.Version)
		}
	}
	return nil
}

// parse makes a map of settings.
func parse(more []string) map[string]string {
	all := make(map[string]string)
	for _, s := range more {
		name, value, _ := strings.Cut(s, "=")
		all[name] = value
	}
	return all
}

// trust is the TLS of a file with the certificate of who signs.
func trust(file string) (*tls.Config, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// untilInputEnds is a context that ends with the program's input.
func untilInputEnds() context.Context {
	ctx, end := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		end()
	}()
	return ctx
}

// login is how the client proves who it is; nil if it does not.
func login(given map[string]string) (*tls.Config, sasl.Mechanism, error) {
	if given["mechanism"] == "" {
		return nil, nil, nil
	}
	config, err := trust(given["ca"])
	if err != nil {
		return nil, nil, err
	}
	var mechanism sasl.Mechanism
	switch given["mechanism"] {
	case "PLAIN":
		mechanism = plain.Mechanism{Username: given["user"], Password: given["password"]}
	case "SCRAM-SHA-256":
		mechanism, err = scram.Mechanism(scram.SHA256, given["user"], given["password"])
	case "SCRAM-SHA-512":
		mechanism, err = scram.Mechanism(scram.SHA512, given["user"], given["password"])
	}
	return config, mechanism, err
}

func produce(args []string) error {
	count, _ := strconv.Atoi(args[2])
	keys, _ := strconv.Atoi(args[3])
	given := parse(args[4:])
	config, mechanism, err := login(given)
	if err != nil {
		return err
	}
	writer := &kafka.Writer{Addr: kafka.TCP(args[0]), Topic: args[1], Balancer: &kafka.Hash{}}
	if mechanism != nil {
		writer.Transport = &kafka.Transport{TLS: config, SASL: mechanism}
	}
	writer.Compression = map[string]kafka.Compression{"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}[given["compression"]]
	messages := make([]kafka.Message, count)
	for i := range messages {
		messages[i] = kafka.Message{Key: fmt.Appendf(nil, "k%d", i%keys), Value: fmt.Appendf(nil, "segmentio-%d", i)}
	}
	if err := writer.WriteMessages(context.Background(), messages...); err != nil {
		return err
	}
	for _, m := range messages {
		say("sent", -1, -1, string(m.Key), string(m.Value))
	}
	return writer.Close()
}

func dialer(given map[string]string) (*kafka.Dialer, error) {
	config, mechanism, err := login(given)
	if err != nil || mechanism == nil {
		return nil, err // its own one
	}
	return &kafka.Dialer{Timeout: 10 * time.Second, DualStack: true, TLS: config, SASLMechanism: mechanism}, nil
}

func record(m kafka.Message) { say("record", m.Partition, m.Offset, string(m.Key), string(m.Value)) }

func consume(args []string) error {
	ctx := untilInputEnds()
	d, err := dialer(parse(args[3:]))
	if err != nil {
		return err
	}
	reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{args[0]}, GroupID: args[2], Topic: args[1], StartOffset: kafka.FirstOffset, Dialer: d})
	for {
		m, err := reader.ReadMessage(ctx) // commits it, too
		if ctx.Err() != nil {
			return reader.Close()
		}
		if err != nil {
			return errors.Join(err, reader.Close())
		}
		record(m)
	}
}

// seek has no pause: a partition is a reader.
func seek(args []string) error {
	first, _ := strconv.Atoi(args[2])
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := dialer(parse(args[4:]))
	if err != nil {
		return err
	}
	reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{args[0]}, Topic: args[1], Partition: 0, Dialer: d})
	read := func(count int) error {
		for range count {
			m, err := reader.ReadMessage(ctx)
			if err != nil {
				return err
			}
			record(m)
		}
		return nil
	}
	say("resumed")
	if err := read(first); err != nil {
		return err
	}
	say("sought")
	if err := reader.SetOffset(2); err != nil {
		return err
	}
	return errors.Join(read(first-2), reader.Close())
}

func admin(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, topic, existing := &kafka.Client{Addr: kafka.TCP(args[0])}, args[1], args[2]
	created, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
		Topic: topic, NumPartitions: 3, ReplicationFactor: 1, ConfigEntries: []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "3600000"}},
	}}})
	if err != nil || created.Errors[topic] != nil {
		return fmt.Errorf("create: %w %v", err, created)
	}
	all, err := client.Metadata(ctx, &kafka.MetadataRequest{})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all.Topics, func(t kafka.Topic) bool { return t.Name == topic })
	say("created", i >= 0)
	partitions := all.Topics[i].Partitions
	say("described", len(partitions), !slices.ContainsFunc(partitions, func(p kafka.Partition) bool { return p.Leader.Port == 0 || len(p.Isr) == 0 }))
	configs, err := client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, ConfigNames: []string{"retention.ms"},
	}}})
	if err != nil {
		return err
	}
	say("config", configs.Resources[0].ConfigEntries[0].ConfigValue)
	var asked []kafka.OffsetRequest
	for p := range 6 {
		asked = append(asked, kafka.FirstOffsetOf(p), kafka.LastOffsetOf(p))
	}
	offsets, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{existing: asked}})
	if err != nil {
		return err
	}
	var earliest, latest int64
	for _, o := range offsets.Topics[existing] {
		earliest, latest = earliest+o.FirstOffset, latest+o.LastOffset
	}
	say("offsets", earliest, latest)
	deleted, err := client.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{topic}})
	if err != nil || deleted.Errors[topic] != nil {
		return fmt.Errorf("delete: %w %v", err, deleted)
	}
	for slices.ContainsFunc(all.Topics, func(t kafka.Topic) bool { return t.Name == topic }) { // it keeps metadata for some seconds
		if all, err = client.Metadata(ctx, &kafka.MetadataRequest{}); err != nil {
			return err
		}
	}
	say("deleted", true)
	return nil
}
