package security

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A double is an issuer without a network.
type double struct {
	mu     sync.Mutex // guards the following
	asked  int
	status int
	body   string
	err    error
	take   time.Duration
	form   string
	id     string
}

func (d *double) RoundTrip(r *http.Request) (*http.Response, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	form, _ := io.ReadAll(r.Body)
	d.form = string(form)
	id, secret, _ := r.BasicAuth()
	d.id = id + " " + secret
	select {
	case <-time.After(d.take):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if d.err != nil {
		return nil, d.err
	}
	return &http.Response{StatusCode: d.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(d.body))}, nil
}

func (d *double) source() *tokenSource {
	return &tokenSource{turn: make(chan struct{}, 1), url: "https://issuer.example/token?x=1", id: "a b", secret: "c+d", scope: "kafka", client: &http.Client{Transport: d, Timeout: tokenTimeout}}
}

func TestTokensAreKeptWhileTheyHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &double{status: http.StatusOK, body: `{"access_token":"one","expires_in":100}`}
		s := d.source()
		ask := func() string {
			token, err := s.token(t.Context())
			require.NoError(t, err)
			return token
		}
		require.Equal(t, "one", ask())
		require.Equal(t, "grant_type=client_credentials&scope=kafka", d.form)
		require.Equal(t, "a+b c%2Bd", d.id, "as forms are encoded")
		d.body = `{"access_token":"two","expires_in":100}`
		<-time.After(79 * time.Second)
		require.Equal(t, "one", ask())
		require.Equal(t, 1, d.asked)
		<-time.After(2 * time.Second)
		require.Equal(t, "two", ask())
		require.Equal(t, 2, d.asked)

		// Away: the token is used to its end, and the issuer is asked once a second.
		d.err = &net.OpError{Op: "dial", Addr: &net.TCPAddr{Port: 443}, Err: errors.New("connection refused")}
		<-time.After(80 * time.Second)
		for range 190 {
			require.Equal(t, "two", ask())
			<-time.After(100 * time.Millisecond)
		}
		require.Equal(t, 2+19, d.asked)
		<-time.After(time.Second)
		_, err := s.token(t.Context())
		require.EqualError(t, err, "the issuer of tokens cannot be reached: connection refused")
		d.err = nil
		_, err = s.token(t.Context())
		require.EqualError(t, err, "the issuer of tokens cannot be reached: connection refused", "which was told just now")
		<-time.After(issuerPause)
		require.Equal(t, "two", ask())
	})
}

// An issuer whose tokens have no end, are about to end or have ended is asked about once a
// second, however many connections prove themselves.
func TestTokensThatAreAboutToEnd(t *testing.T) {
	for _, expires := range []string{``, `,"expires_in":1`, `,"expires_in":0.001`, `,"expires_in":0`, `,"expires_in":-60`} {
		synctest.Test(t, func(t *testing.T) {
			d := &double{status: http.StatusOK, body: `{"access_token":"one"` + expires + `}`}
			s := d.source()
			for range 10_000 {
				token, err := s.token(t.Context())
				require.NoError(t, err)
				require.Equal(t, "one", token)
				<-time.After(time.Millisecond)
			}
			require.Equal(t, 13, d.asked, "in 10 s, %s", expires) // each is used for four fifths of a second
		})
	}
}

// Many connections that want a token ask once, also if the issuer hangs.
func TestIssuersAreNotPressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &double{take: time.Hour}
		s := d.source()
		var all sync.WaitGroup
		began := time.Now()
		for range 100 {
			all.Go(func() {
				_, err := s.token(t.Context())
				require.ErrorContains(t, err, "cannot be reached")
				require.NotContains(t, err.Error(), "issuer.example")
			})
		}
		all.Wait()
		require.Equal(t, 1, d.asked)
		require.Equal(t, tokenTimeout, time.Since(began))

		// Whoever does not wait says nothing of the issuer.
		<-time.After(issuerPause)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.token(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		d.take, d.status, d.body = 0, http.StatusOK, `{"access_token":"one"}`
		token, err := s.token(t.Context())
		require.NoError(t, err)
		require.Equal(t, "one", token)
		_, err = s.token(t.Context())
		require.NoError(t, err)
		require.Equal(t, 3, d.asked, "one without an end is used for a while, too")
	})
}

func TestIssuersThatGiveNone(t *testing.T) {
	for _, c := range []struct {
		status     int
		body, want string
	}{
		{401, `{"error":"invalid_client"}`, "the issuer gives no token: status 401 invalid_client; check token-url, client-id and client-secret-file"},
		{302, "", "status 302"},
		{200, "hello", "no access_token"},
		{200, `{"access_token":""}`, "no access_token"},
		{500, fmt.Sprintf(`{"error":%q}`, strings.Repeat("x", 1000)), "status 500 " + strings.Repeat("x", 100) + ";"},
	} {
		d := &double{status: c.status, body: c.body}
		_, err := d.source().token(t.Context())
		require.ErrorContains(t, err, c.want)
		require.NotContains(t, err.Error(), "c+d")
	}
	d := &double{status: 200, body: `{"access_token":"x","expires_in":1e300}`}
	s := d.source()
	_, err := s.token(t.Context())
	require.NoError(t, err)
	require.True(t, s.holds.After(time.Now()) && s.holds.Before(time.Now().Add(2*tokenLifeMax)))
	bad := &url.Error{Op: "Post", URL: "https://user:c+d@issuer.example", Err: io.EOF}
	require.Equal(t, io.EOF, withoutURL(bad))
}
