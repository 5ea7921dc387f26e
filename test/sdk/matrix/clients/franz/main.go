// Command franz runs franz-go; README.md of the directory above has the commands. It is a
// module of its own, so that its version is what the page says, not what braid is built of.
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

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

func main() {
	commands := map[string]func(args []string) error{
		"version": func([]string) error { return version("github.com/twmb/franz-go") },
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

func client(bootstrap string, more []string, opts ...kgo.Opt) (*kgo.Client, error) {
	given := parse(more)
	opts = append([]kgo.Opt{kgo.SeedBrokers(bootstrap), kgo.ClientID("franz")}, opts...)
	if name := given["compression"]; name != "" {
		opts = append(opts, kgo.ProducerBatchCompression(map[string]kgo.CompressionCodec{
			"gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
		}[name]))
	}
	if given["protocol"] == "consumer" {
		opts = append(opts, kgo.ServerSideBalancer())
	}
	if rack := given["rack"]; rack != "" {
		opts = append(opts, kgo.Rack(rack))
	}
	if instance := given["instance"]; instance != "" {
		opts = append(opts, kgo.InstanceID(instance))
	}
	if mechanism := given["mechanism"]; mechanism != "" {
		config, err := trust(given["ca"])
		if err != nil {
			return nil, err
		}
		password := scram.Auth{User: given["user"], Pass: given["password"]}
		switch mechanism {
		case "PLAIN":
			opts = append(opts, kgo.SASL(plain.Auth{User: given["user"], Pass: given["password"]}.AsMechanism()))
		case "SCRAM-SHA-256":
			opts = append(opts, kgo.SASL(password.AsSha256Mechanism()))
		case "SCRAM-SHA-512":
			opts = append(opts, kgo.SASL(password.AsSha512Mechanism()))
		case "OAUTHBEARER":
			opts = append(opts, kgo.SASL(oauth.Auth{Token: os.Getenv("TOKEN")}.AsMechanism()))
		}
		opts = append(opts, kgo.DialTLSConfig(config))
	}
	return kgo.NewClient(opts...)
}

func produce(args []string) error {
	count, _ := strconv.Atoi(args[2])
	keys, _ := strconv.Atoi(args[3])
	producer, err := client(args[0], args[4:])
	if err != nil {
		return err
	}
	defer producer.Close()
	records := make([]*kgo.Record, count)
	for i := range records {
		records[i] = &kgo.Record{Topic: args[1], Key: fmt.Appendf(nil, "k%d", i%keys), Value: fmt.Appendf(nil, "franz-%d", i)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	results := producer.ProduceSync(ctx, records...)
	if err := results.FirstErr(); err != nil {
		return err
	}
	for _, r := range results {
		say("sent", r.Record.Partition, r.Record.Offset, string(r.Record.Key), string(r.Record.Value))
	}
	return nil
}

func record(r *kgo.Record) { say("record", r.Partition, r.Offset, string(r.Key), string(r.Value)) }

func consume(args []string) error {
	ctx := untilInputEnds()
	tell := func(kind string) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			var all []int32
			for _, partitions := range topics {
				all = append(all, partitions...)
			}
			if len(all) > 0 { // it tells of changes of nothing, too
				slices.Sort(all)
				say(kind, strings.Trim(strings.Join(strings.Fields(fmt.Sprint(all)), ","), "[]"))
			}
		}
	}
	opts := []kgo.Opt{
		kgo.ConsumerGroup(args[2]), kgo.ConsumeTopics(args[1]), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(tell("assigned")), kgo.OnPartitionsRevoked(tell("revoked")), kgo.OnPartitionsLost(tell("revoked")),
	}
	if strings.HasPrefix(args[1], "^") {
		opts = append(opts, kgo.ConsumeRegex())
	}
	consumer, err := client(args[0], args[3:], opts...)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		consumer.PollFetches(ctx).EachRecord(record)
	}
	if err := consumer.CommitUncommittedOffsets(context.Background()); err != nil {
		return err
	}
	consumer.Close()
	return nil
}

func seek(args []string) error {
	first, _ := strconv.Atoi(args[2])
	others, _ := strconv.Atoi(args[3])
	topic := args[1]
	offsets := make(map[int32]kgo.Offset)
	for p := range int32(6) {
		offsets[p] = kgo.NewOffset().AtStart()
	}
	consumer, err := client(args[0], args[4:], kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}))
	if err != nil {
		return err
	}
	defer consumer.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	read := func(count int) error {
		for count > 0 {
			fetches := consumer.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				return err
			}
			fetches.EachRecord(record)
			count -= fetches.NumRecords()
		}
		return nil
	}
	zero := map[string][]int32{topic: {0}}
	consumer.PauseFetchPartitions(zero)
	if err := read(others); err != nil {
		return err
	}
	say("resumed")
	consumer.ResumeFetchPartitions(zero)
	if err := read(first); err != nil {
		return err
	}
	say("sought")
	consumer.SetOffsets(map[string]map[int32]kgo.EpochOffset{topic: {0: {Epoch: -1, Offset: 2}}})
	return read(first - 2)
}

func admin(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client(args[0], args[3:])
	if err != nil {
		return err
	}
	defer c.Close()
	client, topic, existing := kadm.NewClient(c), args[1], args[2]
	value := "3600000"
	if _, err := client.CreateTopic(ctx, 3, 1, map[string]*string{"retention.ms": &value}, topic); err != nil {
		return err
	}
	all, err := client.ListTopics(ctx)
	if err != nil {
		return err
	}
	say("created", all.Has(topic))
	led := true
	for _, p := range all[topic].Partitions {
		led = led && p.Leader >= 0 && len(p.ISR) > 0
	}
	say("described", len(all[topic].Partitions), led)
	configs, err := client.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return err
	}
	for _, c := range configs[0].Configs {
		if c.Key == "retention.ms" {
			say("config", c.MaybeValue())
		}
	}
	total := func(list func(context.Context, ...string) (kadm.ListedOffsets, error)) (sum int64, _ error) {
		offsets, err := list(ctx, existing)
		offsets.Each(func(o kadm.ListedOffset) { sum += o.Offset })
		return sum, err
	}
	earliest, err := total(client.ListStartOffsets)
	if err != nil {
		return err
	}
	latest, err := total(client.ListEndOffsets)
	if err != nil {
		return err
	}
	say("offsets", earliest, latest)
	if _, err := client.DeleteTopic(ctx, topic); err != nil {
		return err
	}
	for all.Has(topic) { // it keeps metadata for some seconds
		if all, err = client.ListTopics(ctx); err != nil {
			return err
		}
	}
	say("deleted", true)
	return nil
}

func transaction(args []string) error {
	producer, err := client(args[0], args[2:], kgo.TransactionalID("matrix"))
	if err != nil {
		return err
	}
	defer producer.Close()
	if err := producer.BeginTransaction(); err != nil {
		return refused(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := producer.ProduceSync(ctx, &kgo.Record{Topic: args[1], Value: []byte("in a transaction")}).FirstErr(); err != nil {
		return refused(err)
	}
	say("accepted")
	return nil
}

// refused says by which of Kafka's errors.
func refused(err error) error {
	var e *kerr.Error
	if !errors.As(err, &e) {
		return err
	}
	say("refused", e.Message, e.Retriable)
	return nil
}
