// Command confluentgo runs confluent-kafka-go; README.md of the directory above has the
// commands. It is a module of its own, so that braid's needs neither it nor a C compiler.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

func main() {
	commands := map[string]func(args []string) error{"version": version, "produce": produce, "consume": consume, "seek": seek, "admin": admin, "transaction": transaction}
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

func version([]string) error {
	info, _ := debug.ReadBuildInfo()
	_, librdkafka := kafka.LibraryVersion()
	for _, m := range info.Deps {
		if strings.HasPrefix(m.Path, "github.com/confluentinc/confluent-kafka-go") {
			say("version", m.Version+" (librdkafka "+librdkafka+")")
		}
	}
	return nil
}

func settings(bootstrap string, more []string, own ...string) *kafka.ConfigMap {
	all := &kafka.ConfigMap{"bootstrap.servers": bootstrap, "client.id": "confluent-go"}
	for _, s := range append(more, own...) {
		name, value, _ := strings.Cut(s, "=")
		(*all)[name] = value
	}
	return all
}

// tokens shows the token whenever the client asks for one.
type tokens interface {
	SetOAuthBearerToken(kafka.OAuthBearerToken) error
}

func show(c tokens) {
	if token := os.Getenv("TOKEN"); token != "" {
		_ = c.SetOAuthBearerToken(kafka.OAuthBearerToken{TokenValue: token, Expiration: time.Now().Add(time.Hour), Principal: "matrix"})
	}
}

func produce(args []string) error {
	count, _ := strconv.Atoi(args[2])
	keys, _ := strconv.Atoi(args[3])
	producer, err := kafka.NewProducer(settings(args[0], args[4:]))
	if err != nil {
		return err
	}
	show(producer)
	for i := range count {
		err := producer.Produce(&kafka.Message{
			TopicPartition: kafka.TopicPartition{Topic: &args[1], Partition: kafka.PartitionAny},
			Key:            fmt.Appendf(nil, "k%d", i%keys), Value: fmt.Appendf(nil, "confluent-go-%d", i),
		}, nil)
		if err != nil {
			return err
		}
	}
	timeout := time.After(30 * time.Second)
	for left := count; left > 0; {
		select {
		case e := <-producer.Events():
			switch e := e.(type) {
			case *kafka.Message:
				if e.TopicPartition.Error != nil {
					return e.TopicPartition.Error
				}
				say("sent", e.TopicPartition.Partition, e.TopicPartition.Offset, string(e.Key), string(e.Value))
				left--
			case kafka.Error:
				if e.IsFatal() {
					return e
				}
			}
		case <-timeout:
			return fmt.Errorf("%d records are left", left)
		}
	}
	producer.Close()
	return nil
}

func numbers(partitions []kafka.TopicPartition) string {
	all := make([]string, len(partitions))
	for i, p := range partitions {
		all[i] = strconv.Itoa(int(p.Partition))
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

func record(m *kafka.Message) {
	say("record", m.TopicPartition.Partition, m.TopicPartition.Offset, string(m.Key), string(m.Value))
}

func consume(args []string) error {
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	consumer, err := kafka.NewConsumer(settings(args[0], args[3:], "group.id="+args[2], "auto.offset.reset=earliest"))
	if err != nil {
		return err
	}
	show(consumer)
	err = consumer.SubscribeTopics([]string{args[1]}, func(_ *kafka.Consumer, e kafka.Event) error {
		switch e := e.(type) {
		case kafka.AssignedPartitions:
			say("assigned", numbers(e.Partitions))
		case kafka.RevokedPartitions:
			say("revoked", numbers(e.Partitions))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for {
		select {
		case <-stop:
			return consumer.Close()
		default:
		}
		m, err := consumer.ReadMessage(200 * time.Millisecond)
		switch {
		case err == nil:
			record(m)
		case !err.(kafka.Error).IsTimeout():
			return err
		}
	}
}

func seek(args []string) error {
	first, _ := strconv.Atoi(args[2])
	others, _ := strconv.Atoi(args[3])
	consumer, err := kafka.NewConsumer(settings(args[0], args[4:], "group.id=not used", "enable.auto.commit=false"))
	if err != nil {
		return err
	}
	defer func() { _ = consumer.Close() }()
	read := func(count int) error {
		for range count {
			m, err := consumer.ReadMessage(30 * time.Second)
			if err != nil {
				return err
			}
			record(m)
		}
		return nil
	}
	var all []kafka.TopicPartition
	for p := range 6 {
		all = append(all, kafka.TopicPartition{Topic: &args[1], Partition: int32(p), Offset: kafka.OffsetBeginning})
	}
	zero := kafka.TopicPartition{Topic: &args[1], Partition: 0, Offset: 2}
	steps := []func() error{
		func() error { return consumer.Assign(all) },
		func() error { return consumer.Pause([]kafka.TopicPartition{zero}) },
		func() error { return read(others) },
		func() error { say("resumed"); return consumer.Resume([]kafka.TopicPartition{zero}) },
		func() error { return read(first) },
		func() error { say("sought"); return consumer.Seek(zero, 10_000) },
		func() error { return read(first - 2) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func admin(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := kafka.NewAdminClient(settings(args[0], args[3:]))
	if err != nil {
		return err
	}
	defer client.Close()
	topic, existing := args[1], args[2]
	created, err := client.CreateTopics(ctx, []kafka.TopicSpecification{{Topic: topic, NumPartitions: 3, Config: map[string]string{"retention.ms": "3600000"}}})
	if err != nil || created[0].Error.Code() != kafka.ErrNoError {
		return fmt.Errorf("create: %w %v", err, created)
	}
	listed := func() (bool, error) {
		all, err := client.GetMetadata(nil, true, 20_000)
		if err != nil {
			return false, err
		}
		_, is := all.Topics[topic]
		return is, nil
	}
	is, err := listed()
	if err != nil {
		return err
	}
	say("created", is)
	described, err := client.DescribeTopics(ctx, kafka.NewTopicCollectionOfTopicNames([]string{topic}))
	if err != nil {
		return err
	}
	partitions := described.TopicDescriptions[0].Partitions
	say("described", len(partitions), !slices.ContainsFunc(partitions, func(p kafka.TopicPartitionInfo) bool { return p.Leader == nil || len(p.Isr) == 0 }))
	configs, err := client.DescribeConfigs(ctx, []kafka.ConfigResource{{Type: kafka.ResourceTopic, Name: topic}})
	if err != nil {
		return err
	}
	say("config", configs[0].Config["retention.ms"].Value)
	total := func(spec kafka.OffsetSpec) (sum int64) {
		asked := make(map[kafka.TopicPartition]kafka.OffsetSpec)
		for p := range 6 {
			asked[kafka.TopicPartition{Topic: &existing, Partition: int32(p)}] = spec
		}
		found, err := client.ListOffsets(ctx, asked)
		if err != nil {
			say("failed", err)
		}
		for _, o := range found.ResultInfos {
			sum += int64(o.Offset)
		}
		return sum
	}
	say("offsets", total(kafka.EarliestOffsetSpec), total(kafka.LatestOffsetSpec))
	deleted, err := client.DeleteTopics(ctx, []string{topic})
	if err != nil || deleted[0].Error.Code() != kafka.ErrNoError {
		return fmt.Errorf("delete: %w %v", err, deleted)
	}
	is, err = listed()
	say("deleted", !is)
	return err
}

func transaction(args []string) error {
	producer, err := kafka.NewProducer(settings(args[0], args[2:], "transactional.id=matrix"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := producer.InitTransactions(ctx); err != nil {
		var e kafka.Error
		if errors.As(err, &e) {
			say("refused", int(e.Code()), e.IsRetriable())
			return nil
		}
		return err
	}
	say("accepted")
	return nil
}
