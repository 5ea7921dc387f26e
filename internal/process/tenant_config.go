package process

import "net"

func (c Config) validateTenants() error {
	if !c.Tenants && (len(c.TenantKafkaListen) > 0 || len(c.TenantKafkaAdvertise) > 0 || len(c.TenantBootstrapListen) > 0 || c.TenantSNI) {
		return configErrorf("--tenant-kafka-listen, --tenant-kafka-advertise, --tenant-bootstrap-listen and --tenant-sni do nothing without --tenants")
	}
	for tenant, address := range c.TenantKafkaAdvertise {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return configErrorf("--tenant-kafka-advertise %s=%q: want TENANT=HOST:PORT", tenant, address)
		}
		if c.TenantKafkaListen[tenant] == "" {
			return configErrorf("--tenant-kafka-advertise %s=%s: there is no --tenant-kafka-listen of that tenant", tenant, address)
		}
	}
	if err := c.TenantLimits.Validate(); err != nil {
		return configErrorf("--tenant-groups, --tenant-connections: %s", err)
	}
	if len(c.TenantBootstrapListen) > 0 && c.BootstrapListen == "" {
		return configErrorf("--tenant-bootstrap-listen needs --bootstrap-listen")
	}
	if !c.TenantSNI {
		return nil
	}
	if !c.Access.Kafka.Enabled() || c.sniHost() == "" {
		host := "--kafka-advertise HOST:PORT"
		if c.Role == NameServer {
			host = "--bootstrap-host HOST"
		}
		return configErrorf("--tenant-sni needs --kafka-tls-cert, with a certificate for *.HOST, and %s", host)
	}
	return nil
}

// sniHost is what follows the tenant in the names of TLS handshakes; empty if they say
// nothing.
func (c Config) sniHost() string {
	switch {
	case !c.TenantSNI:
		return ""
	case c.Role == NameServer:
		return c.BootstrapHost
	default:
		host, _, _ := net.SplitHostPort(c.KafkaAdvertise) // it is checked
		return host
	}
}

// tenantListen are the addresses of listeners for clients of one tenant each, and the flag
// that gives them.
func (c Config) tenantListen() (addresses map[string]string, flag string) {
	if c.Role == NameServer {
		return c.TenantBootstrapListen, "tenant-bootstrap-listen"
	}
	return c.TenantKafkaListen, "tenant-kafka-listen"
}

// tenantAddresses are what clients of tenants are given for this gateway's Kafka facade.
func (w *wiring) tenantAddresses(own string) (map[string]string, error) {
	out := make(map[string]string)
	if w.cfg.TenantSNI {
		out["*"] = "*." + own
	}
	for tenant, l := range w.Process.tenants {
		address, err := advertised(w.cfg.TenantKafkaAdvertise[tenant], l)
		if err != nil {
			return nil, err
		}
		out[tenant] = address
	}
	return out, nil
}
