package process_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/internal/redisstore"
)

const patience = 30 * time.Second

// withOps starts a federation whose gateway has an ops port.
func withOps(t *testing.T) (*embedded.Federation, string) {
	t.Helper()
	f := embedded.New(t, embedded.Options{Configure: func(c *process.Config, _ int) {
		if c.Role == process.Gateway {
			c.OpsListen = "127.0.0.1:0"
		}
	}})
	return f, "http://" + f.Gateway(0).OpsAddress()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

// A gateway without its store says so, and stays in service.
func TestReadinessWithoutTheStore(t *testing.T) {
	f, ops := withOps(t)
	code, body := get(t, ops+"/readyz")
	require.Equal(t, http.StatusOK, code, body)
	for _, check := range []string{"serving", "map", "lease", "store"} {
		require.Contains(t, body, check+": ok\n")
	}
	f.Redis.Mini.SetError("LOADING Redis is loading the dataset in memory")
	code, body = get(t, ops+"/readyz")
	require.Equal(t, http.StatusOK, code)
	require.NotContains(t, body, "store: ok")
	require.Contains(t, body, "store: ")
	require.Contains(t, body, "lease: ok", "appends go on")
	code, _ = get(t, ops+"/healthz")
	require.Equal(t, http.StatusOK, code, "a process without its store lives")
	f.Redis.Mini.SetError("")
	require.Eventually(t, func() bool { _, body := get(t, ops+"/readyz"); return strings.Contains(body, "store: ok") }, patience, 10*time.Millisecond)
}

func TestMetricsCountWhatClientsDo(t *testing.T) {
	f, ops := withOps(t)
	_, err := adminv1connect.NewTopicServiceClient(f.Client, f.APIURL()).CreateTopic(t.Context(), &adminv1.CreateTopicRequest{TopicId: "t", Topic: &adminv1.Topic{PartitionCount: 1}})
	require.NoError(t, err)
	client, err := kgo.NewClient(kgo.SeedBrokers(f.KafkaAddresses()...), kgo.DefaultProduceTopic("t"), kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, client.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr())
	require.NoError(t, client.PollFetches(ctx).Err())
	_, body := get(t, ops+"/metrics")
	for _, want := range []string{
		`braid_kafka_requests_total{api="Produce",error="NONE"`,
		`braid_kafka_bytes_in_total`,
		`braid_kafka_connections`,
		`braid_router_appends_total{braid_id="gateway-0"} 1`,
		`braid_groups{braid_id="gateway-0"} 0`,
		`braid_map_version{braid_id="gateway-0"}`,
		`braid_lease_valid{braid_id="gateway-0"} 1`,
		`braid_controller_leader{braid_id="controller-0"} 1`,
		`braid_controller_gateways{braid_id="controller-0",state="ready"} 1`,
		`braid_controller_map_apply_duration_seconds_count{braid_id="controller-0"}`,
		`rpc_server_`,
		`go_goroutines`,
	} {
		require.Contains(t, body, want, "no %s", want) // not Contains: it would print all metrics
	}
	for _, c := range f.Clusters() {
		for _, seed := range c.Seeds {
			require.NotContains(t, body, seed, "the address of a broker")
		}
	}
	code, profile := get(t, ops+"/debug/pprof/goroutine?debug=1")
	require.Equal(t, http.StatusOK, code)
	require.True(t, strings.HasPrefix(profile, "goroutine profile"))
}

func TestGatewayStartsWhileRedisAndControllersAreAway(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, err := process.New(ctx, process.Config{
		Role: process.Gateway, ID: "alone", Listen: "127.0.0.1:0", KafkaListen: "127.0.0.1:0", OpsListen: "127.0.0.1:0",
		Redis: redisstore.Config{URL: "redis://127.0.0.1:1/0"}, DrainNotice: 100 * time.Millisecond,
	})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	require.Eventually(t, func() bool {
		code, body := get(t, "http://"+p.OpsAddress()+"/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(body, "map: no map is loaded")
	}, patience, 10*time.Millisecond)
	code, _ := get(t, "http://"+p.OpsAddress()+"/healthz")
	require.Equal(t, http.StatusOK, code)
	cancel()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("it does not stop")
	}
}

func TestConfigErrorsNameTheFlag(t *testing.T) {
	valid := process.Config{Role: process.Gateway, Listen: "127.0.0.1:0", Redis: redisstore.Config{URL: "redis://127.0.0.1:1/0"}}
	for _, test := range []struct {
		name   string
		change func(*process.Config)
		want   string
	}{
		{"no redis", func(c *process.Config) { c.Redis.URL = "" }, "--redis"},
		{"no address", func(c *process.Config) { c.Listen = "" }, "--listen"},
		{"bad controller", func(c *process.Config) { c.Controllers = []string{"host:1"} }, "--controller"},
		{"bad advertised address", func(c *process.Config) { c.KafkaAdvertise = "host" }, "--kafka-advertise"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := valid
			test.change(&c)
			_, err := process.New(t.Context(), c)
			var config process.ConfigError
			require.ErrorAs(t, err, &config)
			require.ErrorContains(t, err, test.want)
		})
	}
}

// What is on a command line can be a secret, and stays on the machine.
func TestTheCommandLineIsNotServed(t *testing.T) {
	_, ops := withOps(t)
	code, body := get(t, ops+"/debug/pprof/cmdline")
	require.Equal(t, http.StatusNotFound, code)
	require.NotContains(t, body, os.Args[0])
	code, _ = get(t, ops+"/debug/pprof/goroutine?debug=1")
	require.Equal(t, http.StatusOK, code)
}
