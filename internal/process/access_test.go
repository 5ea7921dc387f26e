package process

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/security"
)

// A gateway that asks who its clients are must be able to tell them from its own fleet:
// else the relay, by which gateways act for each other's members, is open to all of them.
func TestGatewaysThatAskClientsNeedTheFleetsToken(t *testing.T) {
	tls := security.TLSFiles{Cert: "c", Key: "k", ClientCA: "ca", ClientAuth: security.ClientAuthRequired}
	for name, a := range map[string]Access{
		"connect":            {ConnectRequired: true},
		"SASL":               {SaslMechanisms: []string{"SCRAM-SHA-256"}},
		"certificates":       {Connect: tls},
		"Kafka certificates": {Kafka: tls},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, a.validate(Gateway), "--fleet-token-file")
			a.FleetToken = "token"
			require.NoError(t, a.validate(Gateway))
		})
	}
	require.NoError(t, Access{}.validate(Gateway))
}
