package process

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/security"
)

func TestOpenRelayIsNoticed(t *testing.T) {
	for want, configs := range map[bool][]Config{
		true: {
			{Authorization: Authorization{Authorizer: AuthorizerACL}},
			{Tenants: true},
			{TenantKafkaListen: map[string]string{"acme": "127.0.0.1:0"}},
		},
		false: {{}, {Authorization: Authorization{Authorizer: AuthorizerNone}}},
	} {
		for _, c := range configs {
			w := &wiring{Process: &Process{cfg: c, access: &access{}}}
			require.Equal(t, want, w.relayIsOpen())
			w.access.token = security.NewSharedToken("token")
			require.False(t, w.relayIsOpen())
		}
	}
}
