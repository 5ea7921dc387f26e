package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	h2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/test/realparts"
)

// abusedGateway is a gateway of its own for clients that misbehave.
const abusedGateway = "gateway-abused"

// An abuse is what clients do that a gateway must bear.
type abuse struct {
	name    string
	clients int
	// run is one client, until ctx ends; it counts what it did. What the gateway does to it
	// is no error: connections may be refused, and closed.
	run func(ctx context.Context, v *victim, did *atomic.Int64)
}

// A victim is where an abused gateway is.
type victim struct {
	Kafka, API string // addresses
	Topic      string
	Partitions int32
}

var abuses = []abuse{
	{"nobody", 0, nil},
	{"connections that send nothing", 10_000, heldOpen(nil)},
	{"half a request's head", 1000, heldOpen([]byte{0, 0, 1, 0, 0, 3})},
	{"1 MiB of a Produce request of 64 MiB, and no more", 100, heldOpen(halfProduce(64 << 20))},
	{"1 MiB of a Produce request of 8 MiB, and no more", 100, heldOpen(halfProduce(8 << 20))},
	{"64 requests of 60 KB in line behind a long poll", 100, linesBehindPolls},
	{"Metadata of one topic 20,000 times", 4, repeatedMetadata},
	{"members of 250 KB that join a group each and leave", 40, largeMembers},
	{"a length of 2 GB", 16, again(sendAndWait([]byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 9}))},
	{"keys and versions from the future", 16, again(sendAndWait(futureRequest()))},
	{"HTTP and TLS on Kafka's port", 16, again(sendAndWait([]byte("POST / HTTP/1.1\r\nHost: braid\r\nContent-Length: 999999999\r\n\r\n")))},
	{"batches with a wrong CRC", 16, wrongBatches},
	{"fetches of 50 MiB whose answer nobody takes", 100, untakenFetches},
	{"Read streams that nobody takes from", 100, untakenReads},
	{"Consume streams that nobody takes from", 100, untakenConsumes},
	{"pages of 4 MiB of Fetch that nobody takes", 100, untakenPages},
	{"a message of 8 MiB of the Connect API but for its last byte", 100, untilLast},
	{"messages that grow a thousandfold by gzip", 8, gzipBombs},
	{"streams of HTTP/2 that are reset at once", 8, http2Abuse(rapidReset)},
	{"HTTP/2 headers without an end", 8, http2Abuse(endlessHeaders)},
	{"HTTP/1 headers without an end", 8, again(endlessHTTP1)},
}

// A harm is what clients that misbehave have done to a gateway and to one that behaves.
type harm struct {
	peak        float64 // largest RSS of the gateway in MB
	errors      int     // at the client that behaves
	sent, wrong int64   // its records, and those that were lost, doubled or out of order
	idle        []string
}

// runAbuse has clients that misbehave and one that does not share a gateway with a small
// memory limit: what each kind costs it, and what the good client notices.
func runAbuse(b *bench) report {
	w := b.real()
	v := &victim{Topic: w.adopted(8), Partitions: 8}
	defer w.drop(v.Topic)
	b.produce(w.facade, v.Topic, payload{bytes: int64(b.size(200, 20)) << 20, size: 1024})
	v.Kafka, v.API = realparts.FreeAddress(w.scope), realparts.FreeAddress(w.scope)
	p := w.start(abusedGateway, "gateway", "--controller", w.lead, "--listen", v.API, "--kafka-listen", v.Kafka, "--memory-limit", strconv.Itoa(smallLimit), "--zone", "abused")
	good := w.created(side{"braid", v.Kafka}, 1)
	g := b.startGood(v.Kafka, good)
	each := b.lasting(6*time.Second, time.Second)
	if b.soak > 0 {
		each = b.soak / time.Duration(len(abuses))
	}
	r := report{
		notes: []string{fmt.Sprintf("A gateway with --memory-limit 128MiB, a broker with 200 MB of records, and each kind of client for %s. Beside them an idempotent producer of franz-go sends 200 records a second to a consumer, both in their default configuration; its times are those of records that were sent meanwhile.", each)},
	}
	t := table{header: []string{"clients that misbehave", "how many", "what they did, times", "RSS before, MB", "largest RSS, MB", "for each, KB", "acknowledged", "p50", "p99", "largest", "errors"}}
	b.harm = &harm{}
	for i, a := range abuses {
		if !regexp.MustCompile(b.kinds).MatchString(a.name) {
			continue
		}
		g.take()
		before := float64(rss(p.PID())) / 1e6
		largest, did := b.abuse(i, v, p.PID(), each)
		took, failed := g.take()
		b.harm.peak = max(b.harm.peak, largest)
		if a.clients > 0 && did == 0 {
			b.harm.idle = append(b.harm.idle, a.name)
		}
		perClient := "-"
		if a.clients > 0 {
			perClient = figure(max(0, largest-before) * 1000 / float64(a.clients))
		}
		t.rows = append(t.rows, []string{
			a.name, strconv.Itoa(a.clients), figure(float64(did)), figure(before), figure(largest), perClient,
			strconv.Itoa(len(took)), ms(quantile(took, 0.5)), ms(quantile(took, 0.99)), ms(quantile(took, 1)), strconv.Itoa(failed),
		})
	}
	b.harm.wrong = g.stop()
	b.harm.sent, b.harm.errors = g.sent, g.errors
	r.tables = []table{t}
	r.goals = []goal{
		atMost("abuse of a gateway with 128 MiB: largest RSS", " MB", smallLimit/1e6, b.harm.peak),
		atMost("abuse: errors at a client that behaves", "", 0, float64(b.harm.errors)),
		atMost("abuse: its records that were lost, doubled or out of order", "", 0, float64(b.harm.wrong)),
	}
	check(p.Stop(45 * time.Second))
	delete(w.processes, abusedGateway)
	return r
}

// abuse runs one kind and returns the largest RSS of the gateway in MB, and how often the
// clients did what they do.
func (b *bench) abuse(i int, v *victim, pid int, d time.Duration) (largest float64, did int64) {
	count := filepath.Join(b.world.dir, "abused-"+strconv.Itoa(i))
	order, err := json.Marshal(misbehaviour{Abuse: i, Victim: *v, Lasts: d, Count: count})
	check(err)
	p := startChild(b.world.scope, b.world.dir, "abuse", "BRAID_BENCH_ABUSE="+string(order))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for p.Running() {
		largest = max(largest, float64(rss(pid))/1e6)
		select {
		case <-tick.C:
		case <-p.Done():
		}
	}
	written, err := os.ReadFile(count)
	check(err)
	did, err = strconv.ParseInt(string(written), 10, 64)
	check(err)
	return largest, did
}

// A misbehaviour is what a process of its own does, so that clients that want all CPU
// have no more of it than a process gets, and the one that behaves has its own.
type misbehaviour struct {
	Abuse  int // index of abuses
	Victim victim
	Lasts  time.Duration
	Count  string // file for how often it was done
}

// misbehave is such a process.
func misbehave(order string) error {
	var m misbehaviour
	if err := json.Unmarshal([]byte(order), &m); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.Lasts)
	defer cancel()
	var count atomic.Int64
	var all sync.WaitGroup
	a := abuses[m.Abuse]
	for range a.clients {
		all.Go(func() { a.run(ctx, &m.Victim, &count) })
	}
	<-ctx.Done()
	all.Wait()
	return os.WriteFile(m.Count, []byte(strconv.FormatInt(count.Load(), 10)), 0o600)
}

// A goodClient behaves.
type goodClient struct {
	producer, consumer *kgo.Client
	stopSending        context.CancelFunc
	stopReading        context.CancelFunc
	sending, reading   sync.WaitGroup

	mu     sync.Mutex // guards the following
	took   []time.Duration
	failed int
	errors int // of all times
	sent   int64
	next   int64 // to be read
	wrong  int64
}

func (b *bench) startGood(seed, topic string) *goodClient {
	send, stopSending := context.WithCancel(b.ctx)
	read, stopReading := context.WithCancel(b.ctx)
	g := &goodClient{
		stopSending: stopSending, stopReading: stopReading,
		// Of the zone: it stays at the gateway that is abused.
		producer: newClient(seed, kgo.ClientID("good;braid_zone=abused"), kgo.DefaultProduceTopic(topic)),
		consumer: newClient(seed, kgo.ClientID("good;braid_zone=abused"), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())),
	}
	g.sending.Go(func() { g.send(send) })
	g.reading.Go(func() { g.read(read) })
	return g
}

func (g *goodClient) send(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for number := int64(0); ; number++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		value := make([]byte, 200)
		binary.BigEndian.PutUint64(value, uint64(number))
		begin := time.Now()
		g.producer.Produce(context.WithoutCancel(ctx), &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.took = append(g.took, time.Since(begin))
			g.sent = max(g.sent, number+1)
			if err != nil {
				g.failed++
				g.errors++
			}
		})
	}
}

func (g *goodClient) read(ctx context.Context) {
	for {
		f := g.consumer.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		g.mu.Lock()
		f.EachError(func(string, int32, error) { g.failed, g.errors = g.failed+1, g.errors+1 })
		f.EachRecord(func(r *kgo.Record) {
			if number := int64(binary.BigEndian.Uint64(r.Value)); number != g.next {
				g.wrong++
				g.next = number
			}
			g.next++
		})
		g.mu.Unlock()
	}
}

// take returns the times of what was acknowledged since the last call, and the errors.
func (g *goodClient) take() (took []time.Duration, failed int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	took, failed = g.took, g.failed
	g.took, g.failed = nil, 0
	return took, failed
}

// stop reads the rest, and returns how many records were lost, doubled or out of order.
func (g *goodClient) stop() int64 {
	g.stopSending()
	g.sending.Wait()
	check(g.producer.Flush(context.Background()))
	late := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(late) {
		g.mu.Lock()
		done := g.next >= g.sent
		g.mu.Unlock()
		if done {
			break
		}
		<-tick.C
	}
	g.stopReading()
	g.reading.Wait()
	g.producer.Close()
	g.consumer.Close()
	return g.wrong + max(0, g.sent-g.next)
}

// heldOpen connects, sends bytes, and then nothing; a connection that is closed is opened anew.
func heldOpen(send []byte) func(context.Context, *victim, *atomic.Int64) {
	return func(ctx context.Context, v *victim, did *atomic.Int64) {
		for ctx.Err() == nil {
			withConn(ctx, v.Kafka, func(conn net.Conn) {
				did.Add(1)
				_, _ = conn.Write(send)
				untilClosed(conn)
			})
		}
	}
}

// again repeats what a client does on a connection of its own each time.
func again(once func(conn net.Conn, v *victim)) func(context.Context, *victim, *atomic.Int64) {
	return func(ctx context.Context, v *victim, did *atomic.Int64) {
		for ctx.Err() == nil {
			withConn(ctx, v.Kafka, func(conn net.Conn) {
				did.Add(1)
				once(conn, v)
			})
		}
	}
}

func sendAndWait(b []byte) func(net.Conn, *victim) {
	return func(conn net.Conn, _ *victim) {
		_, _ = conn.Write(b)
		untilClosed(conn)
	}
}

func untilClosed(conn net.Conn) {
	var sink [512]byte
	for {
		if _, err := conn.Read(sink[:]); err != nil {
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// withConn gives f a connection that is closed when ctx ends.
func withConn(ctx context.Context, address string, f func(net.Conn)) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		pause(ctx, 10*time.Millisecond) // it takes no more
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	f(conn)
}

func halfProduce(size uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, size)
	b = append(b, 0, 0, 0, 9)
	return append(b, make([]byte, 1<<20)...)
}

// requestOf is a request as a client sends it.
func requestOf(req kmsg.Request, version int16, correlation int32) []byte {
	req.SetVersion(version)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("abuse")).AppendRequest(nil, req, correlation)
}

func metadataOf(names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	for _, name := range names {
		req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{Topic: new(name)})
	}
	return req
}

// linesBehindPolls sends valid requests that have to wait for the answers before them.
func linesBehindPolls(ctx context.Context, v *victim, did *atomic.Int64) {
	poll := kmsg.NewPtrFetchRequest()
	poll.MaxWaitMillis, poll.MinBytes, poll.MaxBytes = 30_000, 1<<30, 1<<30
	poll.Topics = []kmsg.FetchRequestTopic{{Topic: v.Topic, Partitions: []kmsg.FetchRequestTopicPartition{{PartitionMaxBytes: 1}}}}
	lines := requestOf(poll, 11, 1)
	name := string(bytes.Repeat([]byte("x"), 30_000))
	for i := range int32(64) {
		lines = append(lines, requestOf(metadataOf(name, name), 4, 2+i)...)
	}
	for ctx.Err() == nil {
		withConn(ctx, v.Kafka, func(conn net.Conn) {
			go func() { _, _ = conn.Write(lines) }()
			did.Add(1)
			untilClosed(conn)
		})
	}
}

// repeatedMetadata asks for one topic many times, and takes the answers.
func repeatedMetadata(ctx context.Context, v *victim, did *atomic.Int64) {
	names := make([]string, 20_000)
	for i := range names {
		names[i] = v.Topic
	}
	ask := requestOf(metadataOf(names...), 4, 1)
	for ctx.Err() == nil {
		withConn(ctx, v.Kafka, func(conn net.Conn) {
			go untilClosed(conn)
			for ctx.Err() == nil {
				if _, err := conn.Write(ask); err != nil {
					return
				}
				did.Add(1)
			}
		})
	}
}

// largeMembers join groups of their own with much metadata, and go without a word.
func largeMembers(ctx context.Context, v *victim, did *atomic.Int64) {
	join := kmsg.NewPtrJoinGroupRequest()
	join.SessionTimeoutMillis, join.RebalanceTimeoutMillis, join.ProtocolType = 30*60_000, 30*60_000, "consumer"
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: make([]byte, 250<<10)}}
	for ctx.Err() == nil {
		withConn(ctx, v.Kafka, func(conn net.Conn) {
			go untilClosed(conn)
			for ctx.Err() == nil {
				join.Group = "abuse-" + strconv.FormatInt(time.Now().UnixNano(), 36)
				if _, err := conn.Write(requestOf(join, 1, 1)); err != nil {
					return
				}
				did.Add(1)
			}
		})
	}
}

func futureRequest() []byte {
	return []byte{0, 0, 0, 14, 0x03, 0xe7, 0, 99, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0}
}

func wrongBatches(ctx context.Context, v *victim, did *atomic.Int64) {
	batch := bytes.Clone(smallBatch(100, 10_000))
	batch[17] ^= 1
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(9)
	req.Acks, req.TimeoutMillis = -1, 10_000
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: v.Topic, Partitions: []kmsg.ProduceRequestTopicPartition{{Records: batch}}}}
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("abuse")).AppendRequest(nil, req, 1)
	for ctx.Err() == nil {
		withConn(ctx, v.Kafka, func(conn net.Conn) {
			go func() {
				for ctx.Err() == nil {
					if _, err := conn.Write(frame); err != nil {
						return
					}
					did.Add(1)
				}
			}()
			untilClosed(conn)
		})
	}
}

func untakenFetches(ctx context.Context, v *victim, did *atomic.Int64) {
	o := overload{topic: v.Topic}
	for ctx.Err() == nil {
		withConn(ctx, v.Kafka, func(conn net.Conn) {
			for i := range v.Partitions {
				_, _ = conn.Write(o.fetch(i))
				did.Add(1)
			}
			<-ctx.Done()
		})
	}
}

// envelope is a message of a Connect stream.
func envelope(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	check(err)
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

func untakenReads(ctx context.Context, v *victim, did *atomic.Int64) {
	body := envelope(&braidv1.ReadRequest{Sources: []*braidv1.ReadSource{{Topic: v.Topic, Start: &braidv1.Position{At: &braidv1.Position_Offset{}}}}})
	for ctx.Err() == nil {
		withConn(ctx, v.API, func(conn net.Conn) {
			did.Add(1)
			_, _ = fmt.Fprintf(conn, "POST /braid.v1.ConsumerService/Read HTTP/1.1\r\nHost: braid\r\nContent-Type: application/connect+proto\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			<-ctx.Done()
		})
	}
}

// untakenConsumes are members of a group each that let the gateway send as much as it likes.
func untakenConsumes(ctx context.Context, v *victim, did *atomic.Int64) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 64 << 10}}
	defer transport.CloseIdleConnections()
	client := braidv1connect.NewConsumerServiceClient(&http.Client{Transport: transport}, "http://"+v.API)
	for ctx.Err() == nil {
		stream, err := client.Consume(ctx)
		if err == nil {
			err = stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{
				Group: "abuse-" + strconv.FormatInt(time.Now().UnixNano(), 36), Topics: []string{v.Topic},
				Fallback: &braidv1.Position{At: &braidv1.Position_Offset{}}, Credit: &braidv1.Credit{MaxRecords: 1 << 40, MaxBytes: 1 << 40},
			}}})
		}
		if err != nil {
			pause(ctx, 100*time.Millisecond)
			continue
		}
		did.Add(1)
		for err == nil { // until the gateway gives the client up
			pause(ctx, time.Second)
			err = stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Ping{Ping: &braidv1.Ping{}}})
		}
		_ = stream.CloseResponse()
	}
}

// untakenPages asks for pages as large as there are.
func untakenPages(ctx context.Context, v *victim, did *atomic.Int64) {
	const page = 4 << 20
	body, err := proto.Marshal(&braidv1.FetchRequest{
		Sources:  []*braidv1.ReadSource{{Topic: v.Topic, Start: &braidv1.Position{At: &braidv1.Position_Offset{}}}},
		MaxBytes: page, MaxRecords: page, Delivery: &braidv1.Delivery{MaxFrameBytes: page},
	})
	check(err)
	for ctx.Err() == nil {
		withConn(ctx, v.API, func(conn net.Conn) {
			_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
			did.Add(1)
			_, _ = fmt.Fprintf(conn, "POST /braid.v1.ConsumerService/Fetch HTTP/1.1\r\nHost: braid\r\nContent-Type: application/proto\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			<-ctx.Done()
		})
	}
}

// untilLast sends all of a message but one byte, and then nothing.
func untilLast(ctx context.Context, v *victim, did *atomic.Int64) {
	zeros := make([]byte, 64<<10)
	for ctx.Err() == nil {
		withConn(ctx, v.API, func(conn net.Conn) {
			did.Add(1)
			_, _ = fmt.Fprintf(conn, "POST /braid.v1.ProducerService/ProduceBatch HTTP/1.1\r\nHost: braid\r\nContent-Type: application/proto\r\nContent-Length: %d\r\n\r\n", 8<<20)
			for range (8<<20)/len(zeros) - 1 {
				if _, err := conn.Write(zeros); err != nil {
					return
				}
			}
			_, _ = conn.Write(zeros[1:])
			untilClosed(conn)
		})
	}
}

// bomb is 512 MiB of zeros in as many members of gzip, so that it is made at once.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(make([]byte, 1<<20))
	check(err)
	check(z.Close())
	return bytes.Repeat(b.Bytes(), 512)
})

func gzipBombs(ctx context.Context, v *victim, did *atomic.Int64) {
	for ctx.Err() == nil {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+v.API+"/braid.v1.ProducerService/ProduceBatch", bytes.NewReader(bomb()))
		check(err)
		r.Header.Set("Content-Type", "application/proto")
		r.Header.Set("Content-Encoding", "gzip")
		did.Add(1)
		resp, err := http.DefaultClient.Do(r)
		if err == nil {
			_ = resp.Body.Close()
		}
	}
}

// http2Abuse gives f connections that speak HTTP/2.
func http2Abuse(f func(context.Context, *h2.Framer, *victim, *atomic.Int64)) func(context.Context, *victim, *atomic.Int64) {
	return func(ctx context.Context, v *victim, did *atomic.Int64) {
		for ctx.Err() == nil {
			withConn(ctx, v.API, func(conn net.Conn) {
				_, _ = conn.Write([]byte(h2.ClientPreface))
				fr := h2.NewFramer(conn, conn)
				_ = fr.WriteSettings()
				go untilClosed(conn)
				f(ctx, fr, v, did)
			})
		}
	}
}

func headersOf(fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		check(e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return b.Bytes()
}

// rapidReset is CVE-2023-44487.
func rapidReset(ctx context.Context, fr *h2.Framer, v *victim, did *atomic.Int64) {
	for id := uint32(1); ctx.Err() == nil && id < 1<<31-2; id += 2 {
		block := headersOf(":method", "POST", ":scheme", "http", ":authority", v.API, ":path", "/braid.v1.ConsumerService/Read", "content-type", "application/connect+proto")
		if fr.WriteHeaders(h2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true}) != nil ||
			fr.WriteRSTStream(id, h2.ErrCodeCancel) != nil {
			return
		}
		did.Add(1)
	}
}

// endlessHeaders is CVE-2023-45288.
func endlessHeaders(ctx context.Context, fr *h2.Framer, v *victim, did *atomic.Int64) {
	block := headersOf(":method", "POST", ":scheme", "http", ":authority", v.API, ":path", "/")
	if fr.WriteHeaders(h2.HeadersFrameParam{StreamID: 1, BlockFragment: block}) != nil {
		return
	}
	more := headersOf("x-more", string(bytes.Repeat([]byte("x"), 8<<10)))
	for ctx.Err() == nil {
		if fr.WriteContinuation(1, false, more) != nil {
			return
		}
		did.Add(1)
	}
}

func endlessHTTP1(_ net.Conn, v *victim) {
	conn, err := net.Dial("tcp", v.API)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = conn.Write([]byte("GET / HTTP/1.1\r\n"))
	line := append(append([]byte("X-More: "), bytes.Repeat([]byte("x"), 8<<10)...), '\r', '\n')
	for range 10_000 {
		if _, err := conn.Write(line); err != nil {
			return
		}
	}
}
