package continuity

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/braidmq/braid/test/check"
	"github.com/braidmq/braid/test/realparts"
	"github.com/braidmq/braid/test/sdk"
)

// A client is one application: a producer, or a member of a group.
type client struct {
	Name    string
	Library string
	// Defaults are those of its library that matter here. Nothing is set but
	// addresses, client id, group id, and where a member begins.
	Defaults string
	Group    string // of a member
	Once     bool   // of a producer: it is idempotent
}

// Groups. Members of one have a way to share partitions in common: franz-go offers
// cooperative-sticky only, librdkafka and sarama only eager ones.
const (
	groupEager       = "eager"
	groupCooperative = "cooperative"
	groupConnect     = "connect" // one dynamic member
)

// What the libraries do when nothing is set.
const (
	javaProducer      = "idempotent, acks=all, retries for 2 min (delivery.timeout.ms), 5 requests in flight"
	franzProducer     = "idempotent, acks=all, retries without end"
	confluentProducer = "not idempotent, acks=all, retries for 5 min (message.timeout.ms), any number of requests in flight"
	saramaProducer    = "not idempotent, acks=1, 3 retries 100 ms apart"
	javaMember        = "range, cooperative-sticky; commits every 5 s, session 45 s"
	confluentMember   = "range, roundrobin; commits every 5 s, session 45 s"
	saramaMember      = "range; commits every 1 s, session 10 s, heartbeats every 3 s"
	franzMember       = "cooperative-sticky; commits every 5 s, session 45 s"
)

// flushTimeout bounds how long a producer may take for what it has when it is to
// end: more than the longest of their own bounds is not waited for.
const flushTimeout = 2 * time.Minute

// startPrograms starts the clients that are programs in their own languages, and
// returns what ends the producers, and what ends the members.
func (s *soak) startPrograms() (endProducers, endMembers func()) {
	s.t.Helper()
	bootstrap := strings.Join(s.kafka, ",")
	java := filepath.Join(realparts.Root(), "test", "continuity", "clients", "Continuity.java")
	confluent := filepath.Join(realparts.Root(), "test", "continuity", "clients", "confluent_continuity.py")
	sarama := filepath.Join(realparts.Root(), "test", "continuity", "clients", "sarama")
	command := func(library string, args ...string) (command, env []string) {
		switch library {
		case "java":
			return sdk.JavaProgram(s.t, java, args...), nil
		case "confluent":
			return sdk.Python(s.t, confluent, args...)
		default:
			return sdk.GoProgram(s.t, sarama, args...), nil
		}
	}
	var producers, members []*sdk.Client
	start := func(c client, args ...string) *sdk.Client {
		line, env := command(c.Library, args...)
		return sdk.StartHandled(s.t, c.Name, s.handler(s.ledger.add(c)), env, line...)
	}
	for _, c := range []client{
		{Name: "java", Library: "java", Defaults: javaProducer, Once: true},
		{Name: "confluent", Library: "confluent", Defaults: confluentProducer},
		{Name: "sarama", Library: "sarama", Defaults: saramaProducer},
	} {
		producers = append(producers, start(c, "produce", bootstrap, topic, c.Name, strconv.Itoa(keys), strconv.Itoa(perSecond)))
	}
	for _, c := range []client{
		{Name: "java-member", Library: "java", Defaults: javaMember, Group: groupEager},
		{Name: "confluent-member", Library: "confluent", Defaults: confluentMember, Group: groupEager},
		{Name: "sarama-member", Library: "sarama", Defaults: saramaMember, Group: groupEager},
	} {
		members = append(members, start(c, "consume", bootstrap, topic, c.Group))
	}
	end := func(all []*sdk.Client) func() {
		return func() {
			for _, c := range all {
				c.End()
			}
			for _, c := range all {
				c.FinishWithin(flushTimeout)
			}
		}
	}
	return end(producers), end(members)
}

// handler takes in the lines of a program, fields separated by tabs:
//
//	sent PARTITION OFFSET KEY VALUE MICROSECONDS   a producer was told of a record
//	failed VALUE TEXT...                           it was told that a record failed for good
//	record PARTITION OFFSET KEY VALUE              a member was given a record
//	assigned N,N,...                               it was given partitions
//	revoked N,N,...  lost N,N,...                  they were taken from it
//	error TEXT...                                  the application saw an error
//	note TEXT...                                   the library told something for information
//	done                                           the last line of a good run
func (s *soak) handler(a *account) func(sdk.Event) {
	return func(e sdk.Event) {
		f := e.Fields
		switch {
		case e.Kind == "sent" && len(f) == 5:
			v, err := check.Parse(f[3])
			micros, err2 := strconv.ParseInt(f[4], 10, 64)
			if err != nil || err2 != nil {
				s.ledger.fail(a, "bad line: "+strings.Join(f, " "))
				return
			}
			s.ledger.acknowledged(a, v, int32(number(f[0])), time.Duration(micros)*time.Microsecond)
		case e.Kind == "record" && len(f) == 4:
			s.ledger.read(a, int32(number(f[0])), number(f[1]), f[2], f[3])
		case e.Kind == "failed" && len(f) > 1:
			s.ledger.fail(a, strings.Join(f[1:], " "))
		case e.Kind == "assigned" && len(f) == 1:
			s.ledger.assign(a, partitionsOf(f[0]))
		case (e.Kind == "revoked" || e.Kind == "lost") && len(f) == 1:
			s.ledger.revoke(a, partitionsOf(f[0]))
		case e.Kind == "note":
			s.ledger.note(a, strings.Join(f, " "))
		case e.Kind == "done":
		default: // "error", and what is no line of ours
			s.ledger.fail(a, strings.Join(append([]string{e.Kind}, f...), " "))
		}
	}
}

// number is -1 for what is none: no partition and no offset is.
func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func partitionsOf(list string) []int32 {
	if list == "" {
		return nil
	}
	var all []int32
	for n := range strings.SplitSeq(list, ",") {
		all = append(all, int32(number(n)))
	}
	return all
}

// startNative starts the clients that run in this process, until the contexts end.
func (s *soak) startNative(producing, consuming context.Context) {
	both := func(c client, until context.Context, f func(context.Context, *account)) {
		a := s.ledger.add(c)
		wg := &s.producers
		if c.Group != "" {
			wg = &s.members
		}
		wg.Go(func() { f(until, a) })
	}
	both(client{Name: "franz", Library: "franz-go", Defaults: franzProducer, Once: true}, producing, s.franzProducer)
	both(client{Name: "connect-batch", Library: "connect", Defaults: "ProduceBatch: idempotent, the same batch again until it is answered", Once: true}, producing, s.connectBatches)
	both(client{Name: "connect-stream", Library: "connect", Defaults: "Produce: idempotent, pipelined; what a broken stream leaves open is never sent again", Once: true}, producing, s.connectStreams)
	both(client{Name: "franz-member", Library: "franz-go", Defaults: franzMember, Group: groupCooperative}, consuming, s.franzMember)
	both(client{Name: "connect-static", Library: "connect", Defaults: "Consume with an instance id: session 45 s; commits after each batch", Group: groupCooperative}, consuming, s.connectMember)
	both(client{Name: "connect-member", Library: "connect", Defaults: "Consume: session 45 s; commits after each batch", Group: groupConnect}, consuming, s.connectMember)
}
