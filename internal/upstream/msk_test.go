package upstream_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/security"
)

const (
	accessKey    = "AKIDEXAMPLE"
	secretKey    = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" // AWS's own example
	sessionToken = "a/session+token=="
)

// requireSigned checks the message of AWS_MSK_IAM: fields and version as its definition
// has them, and a signature (version 4) of a GET of kafka-cluster:Connect.
func requireSigned(t *testing.T, message []byte, host, region, token string) {
	t.Helper()
	var m map[string]string
	require.NoError(t, json.Unmarshal(message, &m))
	want := []string{"action", "host", "user-agent", "version", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-signature", "x-amz-signedheaders"}
	if token != "" {
		want = append(want, "x-amz-security-token")
	}
	var have []string
	for k := range m {
		have = append(have, k)
	}
	require.ElementsMatch(t, want, have)
	require.Equal(t, "2020_10_22", m["version"])
	require.Equal(t, "braid", m["user-agent"])
	require.Equal(t, host, m["host"])
	require.Equal(t, token, m["x-amz-security-token"])
	at, err := time.Parse("20060102T150405Z", m["x-amz-date"])
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, 10*time.Second)
	scope := at.Format("20060102") + "/" + region + "/kafka-cluster/aws4_request"
	require.Equal(t, accessKey+"/"+scope, m["x-amz-credential"])

	query := []string{
		"Action=kafka-cluster%3AConnect", "X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Credential=" + url.QueryEscape(accessKey+"/"+scope),
		"X-Amz-Date=" + m["x-amz-date"], "X-Amz-Expires=" + m["x-amz-expires"],
	}
	if token != "" {
		query = append(query, "X-Amz-Security-Token="+url.QueryEscape(token))
	}
	query = append(query, "X-Amz-SignedHeaders=host")
	canonical := fmt.Sprintf("GET\n/\n%s\nhost:%s\n\nhost\n%x", strings.Join(query, "&"), host, sha256.Sum256(nil))
	toSign := fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s\n%x", m["x-amz-date"], scope, sha256.Sum256([]byte(canonical)))
	key := []byte("AWS4" + secretKey)
	for _, part := range append(strings.Split(scope, "/"), toSign) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	require.Equal(t, hex.EncodeToString(key), m["x-amz-signature"])
}

const mskProfile = "sasl:\n  mechanism: AWS_MSK_IAM\n  access-key-file: access\n  secret-key-file: secret\n"

// The region is the one in a broker's name.
func TestMSKSignature(t *testing.T) {
	g := newGuarded(t, false)
	g.writeCA()
	g.write("access", accessKey+"\n")
	g.write("secret", secretKey+"\n")
	g.write("session", sessionToken+"\n")
	g.write("keys.yaml", tlsPart+mskProfile)
	g.write("session.yaml", tlsPart+mskProfile+"  session-token-file: session\n")
	g.write("half.yaml", tlsPart+"sasl:\n  mechanism: AWS_MSK_IAM\n  access-key-file: access\n")
	profiles, err := security.OpenProfiles(g.dir, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	const host = "b-1.orders.abc123.c2.kafka.eu-central-1.amazonaws.com"
	for name, token := range map[string]string{"keys": "", "session": sessionToken} {
		p, err := profiles.Profile(name)
		require.NoError(t, err)
		_, message, err := p.Mechanism.Authenticate(t.Context(), host+":9098")
		require.NoError(t, err)
		requireSigned(t, message, host, "eu-central-1", token)
	}
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	p, err := profiles.Profile("keys")
	require.NoError(t, err)
	_, _, err = p.Mechanism.Authenticate(t.Context(), "kafka.internal:9098")
	require.ErrorContains(t, err, `cannot determine the region in "kafka.internal"`)
	_, err = profiles.Profile("half")
	require.ErrorContains(t, err, "secret-key-file is missing")
}

// The whole exchange, on both kinds of connections: with the region of the environment, as
// the broker's name has none, with keys that change, and with a broker that refuses.
func TestMSKExchange(t *testing.T) {
	t.Setenv("AWS_REGION", "eu-west-3")
	g := newGuarded(t, false, kfake.NumBrokers(1))
	var mu sync.Mutex // guards the following
	var messages [][]byte
	var refuse string
	g.kafka.ControlKey(kmsg.SASLHandshake.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		g.kafka.KeepControl()
		resp := r.ResponseKind().(*kmsg.SASLHandshakeResponse)
		if resp.SupportedMechanisms = []string{"AWS_MSK_IAM"}; r.(*kmsg.SASLHandshakeRequest).Mechanism != "AWS_MSK_IAM" {
			resp.ErrorCode = 33
		}
		return resp, nil, true
	})
	g.kafka.ControlKey(kmsg.SASLAuthenticate.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		g.kafka.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		messages = append(messages, r.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes)
		resp := r.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		resp.SASLAuthBytes = []byte(`{"version":"2020_10_22","request-id":"1"}`)
		if refuse != "" {
			resp.ErrorCode, resp.ErrorMessage, resp.SASLAuthBytes = 58, &refuse, nil
		}
		return resp, nil, true
	})
	g.writeCA()
	g.write("access", accessKey)
	g.write("secret", secretKey)
	g.write("session", "old")
	g.write("msk.yaml", tlsPart+mskProfile+"  session-token-file: session\n")
	c := g.open("msk")
	g.works(c)
	g.write("session", sessionToken)
	signedBy := func(token string) func() bool {
		return func() bool {
			g.works(g.open("msk"))
			mu.Lock()
			defer mu.Unlock()
			var m map[string]string
			return json.Unmarshal(messages[len(messages)-1], &m) == nil && m["x-amz-security-token"] == token
		}
	}
	require.Eventually(t, signedBy(sessionToken), 10*time.Second, 50*time.Millisecond)
	mu.Lock()
	require.GreaterOrEqual(t, len(messages), 4, "of two kinds of connections each")
	requireSigned(t, messages[0], "127.0.0.1", "eu-west-3", "old")
	requireSigned(t, messages[len(messages)-1], "127.0.0.1", "eu-west-3", sessionToken)
	refuse = "[1]: Access denied"
	mu.Unlock()
	g.fails(g.open("msk"), `security profile "msk" (AWS_MSK_IAM)`, "Access denied")
	for _, secret := range []string{secretKey, sessionToken} {
		require.NotContains(t, g.logs.String(), secret)
	}
}
