package kafkacompat_test

import (
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/kafkacompat"
)

// lateMaps have no map until it comes, and say when somebody waits for it.
type lateMaps struct {
	*world
	waited chan struct{}
	once   sync.Once
	came   chan struct{}
}

func (l *lateMaps) Current() *federation.Map {
	select {
	case <-l.came:
		return l.world.Current()
	default:
		return new(federation.Map)
	}
}

func (l *lateMaps) Changed() <-chan struct{} {
	l.once.Do(func() { close(l.waited) })
	return l.came
}

// A client that comes to the listener of a tenant before the gateway has a map waits for
// it: many take a connection that is closed before the first answer for a mistake of theirs.
func TestClientsOfTenantsWaitForTheMap(t *testing.T) {
	w := newWorld(t)
	maps := &lateMaps{world: w, waited: make(chan struct{}), came: make(chan struct{})}
	asked := make(chan federation.MapVersion, 1)
	server := w.servers[0]
	w.servers[0] = server.Tenant(kafkacompat.TenantDeps{
		Name: "acme", Maps: maps, NewSession: w.router.NewSession, Groups: w.newCoordinator("acme"), Logger: slog.New(slog.DiscardHandler),
		TenantOf: func(id security.Identity) (*kafkacompat.Server, security.Principal, error) {
			asked <- maps.Current().Version
			return server, id.Principal, nil
		},
	})
	client := dial(t, w.listen("alice"))
	client.send(kmsg.NewPtrApiVersionsRequest(), 0)
	select {
	case <-maps.waited:
	case v := <-asked:
		require.NotZero(t, v, "whose the client is was asked without a map")
	}
	close(maps.came)
	_, _, err := client.frame()
	require.NoError(t, err)
	require.NotZero(t, <-asked)
}
