package suite

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

func (s *suite) leaks() []test {
	return []test{
		{"in what Kafka clients are sent", s.testNothingPhysicalInKafka},
		{"in what Connect clients are sent", s.testNothingPhysicalInConnect},
		{"in errors while a cluster is away", s.testNothingPhysicalInErrors},
	}
}

// secrets is what no client may see: hosts with ports, cluster ids, physical
// topics and their ids.
func (s *suite) secrets(t *testing.T, topic string) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	for _, c := range s.w.Clusters {
		all["cluster id of "+c.Name] = []byte(c.ClusterID)
		for _, seed := range c.Seeds {
			_, port, err := net.SplitHostPort(seed)
			require.NoError(t, err)
			n, err := strconv.Atoi(port)
			require.NoError(t, err)
			all["address "+seed] = []byte(seed)
			// As the Kafka protocol writes a port.
			all["port "+seed] = []byte{0, 0, byte(n >> 8), byte(n)}
		}
		details, err := kadm.NewClient(s.w.Physical(t, c.Name)).ListTopics(call(t))
		require.NoError(t, err)
		for _, d := range details {
			if strings.Contains(d.Topic, topic) {
				all["physical topic "+d.Topic] = []byte(d.Topic)
				all["id of physical topic "+d.Topic] = d.ID[:]
			}
		}
	}
	return all
}

// A recorder is a TCP proxy that keeps what a server sends.
type recorder struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.Write(b)
}

func (r *recorder) requireNone(t *testing.T, secrets map[string][]byte) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.NotZero(t, r.got.Len(), "nothing was recorded")
	for what, secret := range secrets {
		require.False(t, bytes.Contains(r.got.Bytes(), secret), "a client was sent the %s", what)
	}
}

// dialer is a dialer for kgo that keeps all answers.
func (r *recorder) dialer(t *testing.T) kgo.Opt {
	t.Helper()
	return kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return recordedConn{conn, io.TeeReader(conn, r)}, nil
	})
}

type recordedConn struct {
	net.Conn
	reader io.Reader
}

func (c recordedConn) Read(b []byte) (int, error) { return c.reader.Read(b) }

func (s *suite) testNothingPhysicalInKafka(t *testing.T) {
	topic, group := s.topic(t, 4), name(t)
	secrets := s.secrets(t, topic)
	require.GreaterOrEqual(t, len(secrets), 3*len(s.w.Clusters))
	var r recorder
	client := s.client(t, r.dialer(t), kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for n := range 20 {
		send(t, client, &kgo.Record{Topic: topic, Key: fmt.Append(nil, n), Value: []byte("v")})
	}
	poll(t, client, 20)
	require.NoError(t, client.CommitUncommittedOffsets(call(t)))
	admin := kadm.NewClient(client)
	_, err := admin.ListTopics(call(t))
	require.NoError(t, err)
	_, err = admin.DescribeTopicConfigs(call(t), topic)
	require.NoError(t, err)
	brokers, err := admin.ListBrokers(call(t))
	require.NoError(t, err)
	_, err = admin.DescribeBrokerConfigs(call(t), brokers.NodeIDs()...)
	require.NoError(t, err)
	_, err = admin.ListEndOffsets(call(t), topic)
	require.NoError(t, err)
	_, err = admin.DescribeGroups(call(t), group)
	require.NoError(t, err)
	for _, request := range []kmsg.Request{kmsg.NewPtrDescribeClusterRequest(), kmsg.NewPtrMetadataRequest()} {
		_, err := client.Request(call(t), request)
		require.NoError(t, err)
	}
	// An error of a broker's: an epoch that is fenced, a partition that is not there.
	conn := dial(t, s.w.KafkaAddresses()[0])
	_ = conn.produce(topic, 99, -1, plainBatch("v").encode())
	r.requireNone(t, secrets)
}

func (s *suite) testNothingPhysicalInConnect(t *testing.T) {
	topic := s.topic(t, 4)
	secrets := s.secrets(t, topic)
	var r recorder
	keep := func(v fmt.Stringer) { _, _ = r.Write([]byte(v.String())) }
	keep(s.produceBatch(t, topic, &braidv1.Record{Key: []byte("k"), Value: []byte("v")}))
	records, closed := s.readConnect(t, &braidv1.ReadRequest{Sources: fromStart(topic), Stop: latestAtStart()})
	keep(records[0])
	keep(closed)
	info, err := s.consumerAPI().GetTopicInfo(call(t), &braidv1.GetTopicInfoRequest{Topic: topic})
	require.NoError(t, err)
	keep(info)
	partition := int32(99)
	_, err = s.producerAPI().ProduceBatch(call(t), &braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{
		Topic: topic, Partition: &partition, Records: []*braidv1.Record{{Value: []byte("v")}},
	}})
	if err != nil {
		_, _ = r.Write([]byte(err.Error()))
	}
	r.requireNone(t, secrets)
}

// testNothingPhysicalInErrors asks for what lies on a cluster that is gone.
func (s *suite) testNothingPhysicalInErrors(t *testing.T) {
	if s.w.Clusters[0].Kill == nil {
		s.testErrorsOfUnknownCluster(t)
		return
	}
	topic := s.topic(t, 4)
	secrets := s.secrets(t, topic)
	var r recorder
	s.w.Clusters[0].Kill()
	defer s.w.Clusters[0].Restart()
	for p := range int32(4) {
		response, err := s.producerAPI().ProduceBatch(short(t), &braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{
			Topic: topic, Partition: &p, Records: []*braidv1.Record{{Value: []byte("v")}},
		}})
		if err != nil {
			_, _ = r.Write([]byte(err.Error()))
			continue
		}
		_, _ = r.Write([]byte(response.String()))
	}
	r.requireNone(t, secrets)
}

// testErrorsOfUnknownCluster has no cluster to kill, but one that does not answer.
func (s *suite) testErrorsOfUnknownCluster(t *testing.T) {
	_, stderr, err := s.w.Braid(call(t), "", "cluster", "add", "away", "--seeds", "127.0.0.1:1")
	require.Error(t, err)
	require.Contains(t, stderr, "away")
}
