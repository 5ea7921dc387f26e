package process

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/security"
)

// A gateway that has something to guard must be able to tell its clients from its own
// fleet: else the relay, by which gateways act for each other's members, is open to all of
// them.
func TestGatewaysWithSomethingToGuardNeedTheFleetsToken(t *testing.T) {
	tls := security.TLSFiles{Cert: "c", Key: "k", ClientCA: "ca", ClientAuth: security.ClientAuthRequired}
	for name, c := range map[string]Config{
		"connect":              {Access: Access{ConnectRequired: true}},
		"SASL":                 {Access: Access{SaslMechanisms: []string{"SCRAM-SHA-256"}}},
		"certificates":         {Access: Access{Connect: tls}},
		"Kafka certificates":   {Access: Access{Kafka: tls}},
		"ACLs":                 {Authorization: Authorization{Authorizer: AuthorizerACL, AllowIfNoACL: true}},
		"tenants":              {Tenants: true},
		"listeners of tenants": {Tenants: true, TenantKafkaListen: map[string]string{"acme": "127.0.0.1:0"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.Redis, c.Listen = redisstore.Config{URL: "redis://127.0.0.1:6379/0"}, "127.0.0.1:0"
			c.Role = Gateway
			err := c.validate()
			var config ConfigError
			require.ErrorAs(t, err, &config)
			require.ErrorContains(t, err, "--fleet-token-file")
			require.ErrorContains(t, err, "> fleet.token", "it says how to make one")

			file, given, controller := c, c, c
			file.Access.FleetTokenFile, given.Access.FleetToken = "fleet.token", "token"
			require.NoError(t, file.validate())
			require.NoError(t, given.validate())
			controller.Role = Controller
			require.NoError(t, controller.validate(), "what clients may do is for gateways to decide")
		})
	}
	open := Config{Role: Gateway, Redis: redisstore.Config{URL: "redis://127.0.0.1:6379/0"}, Listen: "127.0.0.1:0", Authorization: Authorization{Authorizer: AuthorizerNone}}
	require.NoError(t, open.validate())
}
