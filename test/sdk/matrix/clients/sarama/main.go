// Command sarama runs github.com/IBM/sarama; README.md of the directory above has the
// commands. It is a module of its own, so that braid's has no second Kafka client.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

func main() {
	// What it tries again, and why, is in the log of a case that fails.
	sarama.Logger = log.New(os.Stderr, "", log.Lmicroseconds)
	commands := map[string]func(args []string) error{
		"version": func([]string) error { return version("github.com/IBM/sarama") },
		"produce": produce, "consume": consume, "seek": seek, "admin": admin, "transaction": transaction,
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

// conversation is SCRAM as sarama's documentation has applications bring it along.
type conversation struct {
	hash scram.HashGeneratorFcn
	*scram.ClientConversation
}

func (c *conversation) Begin(user, password, authzID string) error {
	client, err := c.hash.NewClient(user, password, authzID)
	if err == nil {
		c.ClientConversation = client.NewConversation()
	}
	return err
}

type token struct{}

func (token) Token() (*sarama.AccessToken, error) {
	return &sarama.AccessToken{Token: os.Getenv("TOKEN")}, nil
}

func settings(more []string) (*sarama.Config, error) {
	given := parse(more)
	config := sarama.NewConfig()
	config.ClientID = "sarama"
	config.Producer.Compression = map[string]sarama.CompressionCodec{
		"gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy, "lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
	}[given["compression"]]
	if given["idempotent"] != "" {
		config.Producer.Idempotent, config.Producer.RequiredAcks, config.Net.MaxOpenRequests = true, sarama.WaitForAll, 1
	}
	config.Consumer.Group.InstanceId = given["instance"]
	config.RackID = given["rack"]
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	if mechanism := given["mechanism"]; mechanism != "" {
		trusted, err := trust(given["ca"])
		if err != nil {
			return nil, err
		}
		config.Net.TLS.Enable, config.Net.TLS.Config = true, trusted
		config.Net.SASL.Enable, config.Net.SASL.Mechanism = true, sarama.SASLMechanism(mechanism)
		config.Net.SASL.User, config.Net.SASL.Password = given["user"], given["password"]
		hash := map[string]scram.HashGeneratorFcn{"SCRAM-SHA-256": scram.SHA256, "SCRAM-SHA-512": scram.SHA512}[mechanism]
		config.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &conversation{hash: hash} }
		config.Net.SASL.TokenProvider = token{}
	}
	return config, nil
}

// connected is a client whose connections to all brokers are open.
//
// A producer opens that to a broker when it first has something for it. Two partitions that
// do so at one time are in a race: Broker.Open notes that it is at work before it takes the
// lock, and who comes between is told ErrNotConnected. The producer then closes the
// connection and sends again what was in flight on it, also what is in the log already.
func connected(bootstrap string, config *sarama.Config) (sarama.Client, error) {
	client, err := sarama.NewClient([]string{bootstrap}, config)
	if err != nil {
		return nil, err
	}
	for _, b := range client.Brokers() {
		if err := b.Open(config); err != nil && !errors.Is(err, sarama.ErrAlreadyConnected) {
			return nil, err
		}
		if _, err := b.Connected(); err != nil { // it waits for the connection
			return nil, err
		}
	}
	return client, nil
}

func produce(args []string) error {
	count, _ := strconv.Atoi(args[2])
	keys, _ := strconv.Atoi(args[3])
	config, err := settings(args[4:])
	if err != nil {
		return err
	}
	config.Producer.Return.Successes = true // how an application learns of them
	client, err := connected(args[0], config)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	producer, err := sarama.NewAsyncProducerFromClient(client)
	if err != nil {
		return err
	}
	go func() {
		for i := range count {
			key, value := "k"+strconv.Itoa(i%keys), "sarama-"+strconv.Itoa(i)
			producer.Input() <- &sarama.ProducerMessage{Topic: args[1], Key: sarama.StringEncoder(key), Value: sarama.StringEncoder(value), Metadata: [2]string{key, value}}
		}
	}()
	for range count {
		select {
		case m := <-producer.Successes():
			kv := m.Metadata.([2]string)
			say("sent", m.Partition, m.Offset, kv[0], kv[1])
		case err := <-producer.Errors():
			return err
		}
	}
	return producer.Close()
}

type handler struct{}

func numbers(claims map[string][]int32) string {
	var all []string
	for _, partitions := range claims {
		for _, p := range partitions {
			all = append(all, strconv.Itoa(int(p)))
		}
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

func (handler) Setup(s sarama.ConsumerGroupSession) error {
	say("assigned", numbers(s.Claims()))
	return nil
}

func (handler) Cleanup(s sarama.ConsumerGroupSession) error {
	say("revoked", numbers(s.Claims()))
	return nil
}

func (handler) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for m := range claim.Messages() {
		record(m)
		s.MarkMessage(m, "")
	}
	return nil
}

func record(m *sarama.ConsumerMessage) {
	say("record", m.Partition, m.Offset, string(m.Key), string(m.Value))
}

func consume(args []string) error {
	ctx := untilInputEnds()
	config, err := settings(args[3:])
	if err != nil {
		return err
	}
	member, err := sarama.NewConsumerGroup([]string{args[0]}, args[2], config)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		// It returns at each rebalance, and when its tries to reach the group's coordinator are
		// used up, and is to be called again.
		if err := member.Consume(ctx, []string{args[1]}, handler{}); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	return member.Close()
}

func seek(args []string) error {
	first, _ := strconv.Atoi(args[2])
	others, _ := strconv.Atoi(args[3])
	config, err := settings(args[4:])
	if err != nil {
		return err
	}
	consumer, err := sarama.NewConsumer([]string{args[0]}, config)
	if err != nil {
		return err
	}
	defer func() { _ = consumer.Close() }()
	messages := make(chan *sarama.ConsumerMessage)
	open := func(partition int32, offset int64, paused bool) (sarama.PartitionConsumer, error) {
		c, err := consumer.ConsumePartition(args[1], partition, offset)
		if err != nil {
			return nil, err
		}
		if paused {
			c.Pause()
		}
		go func() {
			for m := range c.Messages() {
				messages <- m
			}
		}()
		return c, nil
	}
	read := func(count int) error {
		for range count {
			select {
			case m := <-messages:
				record(m)
			case <-time.After(time.Minute):
				return errors.New("no more messages")
			}
		}
		return nil
	}
	zero, err := open(0, sarama.OffsetOldest, true)
	if err != nil {
		return err
	}
	for p := int32(1); p < 6; p++ {
		if _, err := open(p, sarama.OffsetOldest, false); err != nil {
			return err
		}
	}
	if err := read(others); err != nil {
		return err
	}
	say("resumed")
	zero.Resume()
	if err := read(first); err != nil {
		return err
	}
	say("sought")
	// A partition is sought by opening it again.
	if err := zero.Close(); err != nil {
		return err
	}
	if _, err := open(0, 2, false); err != nil {
		return err
	}
	return read(first - 2)
}

func admin(args []string) error {
	config, err := settings(args[3:])
	if err != nil {
		return err
	}
	client, err := sarama.NewClient([]string{args[0]}, config)
	if err != nil {
		return err
	}
	admin, err := sarama.NewClusterAdminFromClient(client)
	if err != nil {
		return err
	}
	topic, existing, value := args[1], args[2], "3600000"
	if err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 3, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &value}}, false); err != nil {
		return err
	}
	all, err := admin.ListTopics()
	if err != nil {
		return err
	}
	_, is := all[topic]
	say("created", is)
	described, err := admin.DescribeTopics([]string{topic})
	if err != nil {
		return err
	}
	partitions := described[0].Partitions
	say("described", len(partitions), !slices.ContainsFunc(partitions, func(p *sarama.PartitionMetadata) bool { return p.Leader < 0 || len(p.Isr) == 0 }))
	configs, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"retention.ms"}})
	if err != nil {
		return err
	}
	say("config", configs[0].Value)
	total := func(at int64) (sum int64) {
		for p := range int32(6) {
			offset, err := client.GetOffset(existing, p, at)
			if err != nil {
				say("failed", err)
			}
			sum += offset
		}
		return sum
	}
	say("offsets", total(sarama.OffsetOldest), total(sarama.OffsetNewest))
	if err := admin.DeleteTopic(topic); err != nil {
		return err
	}
	all, err = admin.ListTopics()
	_, is = all[topic]
	say("deleted", !is)
	return errors.Join(err, admin.Close())
}

func transaction(args []string) error {
	config, err := settings(append(args[2:], "idempotent=true"))
	if err != nil {
		return err
	}
	config.Producer.Transaction.ID, config.Producer.Return.Successes = "matrix", true
	producer, err := sarama.NewSyncProducer([]string{args[0]}, config)
	if err == nil {
		err = producer.BeginTxn()
	}
	if code := sarama.ErrNoError; errors.As(err, &code) {
		say("refused", int16(code))
		return nil
	}
	if err != nil {
		return err
	}
	say("accepted")
	return nil
}
