// Command sarama runs github.com/IBM/sarama with its default configuration: not
// idempotent, acks=1, 3 retries 100 ms apart, fetches and commits as they come. The
// lines are those of clients.go. It is a module of its own, so that braid's has no
// second Kafka client among its requirements.
//
//	sarama produce BOOTSTRAP TOPIC NAME KEYS PER_SECOND
//	sarama consume BOOTSTRAP TOPIC GROUP
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

func main() {
	ctx, end := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		end()
	}()
	var err error
	switch args := os.Args[1:]; args[0] {
	case "produce":
		err = produce(ctx, strings.Split(args[1], ","), args[2], args[3], args[4], args[5])
	case "consume":
		err = consume(ctx, strings.Split(args[1], ","), args[2], args[3])
	default:
		err = fmt.Errorf("no command %q", args[0])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	say("done")
}

var writing sync.Mutex

func say(fields ...any) {
	texts := make([]string, len(fields))
	for i, f := range fields {
		texts[i] = strings.NewReplacer("\t", " ", "\n", " ").Replace(fmt.Sprint(f))
	}
	writing.Lock()
	defer writing.Unlock()
	fmt.Println(strings.Join(texts, "\t"))
}

// A sent is what goes along with a record.
type sent struct {
	key, value string
	begin      time.Time
}

func produce(ctx context.Context, bootstrap []string, topic, name, keyCount, perSecond string) error {
	keys, err := strconv.Atoi(keyCount)
	if err != nil {
		return err
	}
	rate, err := strconv.Atoi(perSecond)
	if err != nil {
		return err
	}
	config := sarama.NewConfig()
	config.ClientID = name
	config.Producer.Return.Successes = true // how an application learns of them
	producer, err := sarama.NewAsyncProducer(bootstrap, config)
	if err != nil {
		return err
	}
	var answers sync.WaitGroup
	answers.Go(func() {
		for m := range producer.Successes() {
			s := m.Metadata.(sent)
			say("sent", m.Partition, m.Offset, s.key, s.value, time.Since(s.begin).Microseconds())
		}
	})
	answers.Go(func() {
		for e := range producer.Errors() {
			say("failed", e.Msg.Metadata.(sent).value, e.Err)
		}
	})
	last := make([]int, keys)
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for at := 0; ctx.Err() == nil; at++ {
		k := at % keys
		last[k]++
		s := sent{key: "k" + strconv.Itoa(k), begin: time.Now()}
		s.value = name + "/" + s.key + "/" + strconv.Itoa(last[k])
		producer.Input() <- &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(s.key), Value: sarama.StringEncoder(s.value), Metadata: s}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	producer.AsyncClose()
	answers.Wait()
	return nil
}

func consume(ctx context.Context, bootstrap []string, topic, group string) error {
	config := sarama.NewConfig()
	config.ClientID = "sarama-member"
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	member, err := sarama.NewConsumerGroup(bootstrap, group, config)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		// It returns at each rebalance, and is to be called again.
		if err := member.Consume(ctx, []string{topic}, handler{topic}); err != nil && ctx.Err() == nil {
			say("error", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	}
	if err := member.Close(); err != nil {
		say("error", "when it left:", err) // a fault may just have ended
	}
	return nil
}

type handler struct{ topic string }

func (h handler) Setup(s sarama.ConsumerGroupSession) error {
	say("assigned", numbers(s.Claims()[h.topic]))
	return nil
}

func (h handler) Cleanup(s sarama.ConsumerGroupSession) error {
	say("revoked", numbers(s.Claims()[h.topic]))
	return nil
}

func (handler) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for m := range claim.Messages() {
		say("record", m.Partition, m.Offset, string(m.Key), string(m.Value))
		s.MarkMessage(m, "")
	}
	return nil
}

func numbers(partitions []int32) string {
	texts := make([]string, 0, len(partitions))
	for _, p := range slices.Sorted(slices.Values(partitions)) {
		texts = append(texts, strconv.Itoa(int(p)))
	}
	return strings.Join(texts, ",")
}
