package realparts

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/template"
	"time"
)

// A SecureKafka is a cluster of one real broker that asks for TLS and SASL at one address
// and for client certificates at another, and denies all that no ACL allows. At its Seed,
// in plain text, everybody may do everything: that is for who sets it up.
type SecureKafka struct {
	*Kafka
	// SASL and TLS are host:port of the two guarded listeners.
	SASL, TLS string
}

// secureKafka is what such a broker is made of.
type secureKafka struct {
	Keystore, CA     string
	User, Password   string
	SessionLifetime  time.Duration
	Issuer           *Issuer // nil = tokens need no signature
	saslAddress, tls string
	kerberos         *kerberosKafka // nil = TLS, SASL and ACLs as above, else it alone
}

// An Issuer is whose tokens a broker takes.
type Issuer struct {
	Name     string // their claim iss
	Audience string // their claim aud
	Keys     string // the file of its public keys, a JWK set
}

// javaArgs are what the broker's virtual machine has to be told: Kafka reads keys only from
// where it may.
func (s *secureKafka) javaArgs() []string {
	switch {
	case s == nil:
		return nil
	case s.kerberos != nil:
		return s.kerberos.javaArgs()
	case s.Issuer == nil:
		return nil
	}
	const allowed = "-Dorg.apache.kafka.sasl.oauthbearer.allowed."
	return []string{allowed + "urls=file://" + s.Issuer.Keys, allowed + "files=" + s.Issuer.Keys}
}

func (s *secureKafka) listeners() string {
	if s.kerberos != nil {
		return ",SASL_PLAINTEXT://" + s.saslAddress
	}
	return fmt.Sprintf(",SASL_SSL://%s,SSL://%s", s.saslAddress, s.tls)
}

// users are SCRAM credentials that are there from the beginning.
func (s *secureKafka) users() []string {
	if s.kerberos != nil {
		return nil
	}
	var args []string
	for _, m := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", m, s.User, s.Password))
	}
	return args
}

const secureSettings = `# TLS and SASL, and nothing without an ACL.
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{{.User}}="{{.Password}}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
{{if .Issuer -}}
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
listener.name.sasl_ssl.oauthbearer.sasl.oauthbearer.jwks.endpoint.url=file://{{.Issuer.Keys}}
listener.name.sasl_ssl.oauthbearer.sasl.oauthbearer.expected.issuer={{.Issuer.Name}}
listener.name.sasl_ssl.oauthbearer.sasl.oauthbearer.expected.audience={{.Issuer.Audience}}
{{else -}}
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
{{end -}}
ssl.keystore.type=PEM
ssl.keystore.location={{.Keystore}}
ssl.truststore.type=PEM
ssl.truststore.location={{.CA}}
listener.name.ssl.ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/,DEFAULT
connections.max.reauth.ms={{.SessionLifetime.Milliseconds}}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
`

func (s *secureKafka) settings() string {
	if s.kerberos != nil {
		return s.kerberos.settings(s.SessionLifetime)
	}
	var out strings.Builder
	if err := template.Must(template.New("").Parse(secureSettings)).Execute(&out, s); err != nil {
		return err.Error() // the broker will not take it
	}
	return out.String()
}

// StartSecureKafka starts one such cluster for each name. The user has the password for
// PLAIN and SCRAM; sessions of SASL must be renewed before lifetime is over.
func StartSecureKafka(t TB, heapMB int, a *Authority, user, password string, lifetime time.Duration, names ...string) []*SecureKafka {
	t.Helper()
	return startSecureKafka(t, heapMB, a, secureKafka{User: user, Password: password, SessionLifetime: lifetime}, names...)
}

// StartIssuedKafka starts one such cluster that takes the tokens of an issuer.
func StartIssuedKafka(t TB, heapMB int, a *Authority, issuer *Issuer, lifetime time.Duration, name string) *SecureKafka {
	t.Helper()
	return startSecureKafka(t, heapMB, a, secureKafka{User: "nobody", Password: rand.Text(), SessionLifetime: lifetime, Issuer: issuer}, name)[0]
}

func startSecureKafka(t TB, heapMB int, a *Authority, like secureKafka, names ...string) []*SecureKafka {
	t.Helper()
	a.Issue(t, "broker")
	like.Keystore, like.CA = a.all("broker"), a.CA
	return startGuardedKafka(t, heapMB, like, names...)
}

func startGuardedKafka(t TB, heapMB int, like secureKafka, names ...string) []*SecureKafka {
	t.Helper()
	Jars(t)
	all := make([]*SecureKafka, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		id := make([]byte, 16)
		_, _ = rand.Read(id)
		id[0] &= 0x3f
		s := like
		s.saslAddress, s.tls = FreeAddress(t), FreeAddress(t)
		k := &Kafka{
			Name: name, ClusterID: base64.RawURLEncoding.EncodeToString(id), NodeID: 1, controllerID: 1, dir: t.TempDir(), heap: heapMB, controllerPort: FreePort(t), secure: &s,
		}
		all[i] = &SecureKafka{Kafka: k, SASL: s.saslAddress, TLS: s.tls}
		wg.Go(func() { errs[i] = k.create(t) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("kafka: %v", err)
	}
	return all
}

// A SecureRedis is a Redis with TLS in which one user has only the rights of an ACL rule.
type SecureRedis struct {
	Address string

	dir  string
	proc *Process
}

// StartSecureRedis starts one; rule is the rest of a line "user NAME" of an ACL file.
func StartSecureRedis(t TB, a *Authority, user, rule string) *SecureRedis {
	t.Helper()
	r := &SecureRedis{Address: FreeAddress(t), dir: t.TempDir()}
	certFile, keyFile := a.Issue(t, "redis")
	users := filepath.Join(r.dir, "users.acl")
	text := "user default off\nuser " + user + " on " + rule + "\n"
	if err := os.WriteFile(users, []byte(text), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	_, port, _ := net.SplitHostPort(r.Address)
	var err error
	r.proc, err = StartProcess(t, "redis", r.dir, Program{Name: "redis-server", Packages: []string{"redis-server"}}.Path(t),
		"--bind", "127.0.0.1", "--port", "0", "--tls-port", port, "--tls-cert-file", certFile, "--tls-key-file", keyFile, "--tls-ca-cert-file", a.CA,
		"--tls-auth-clients", "no", "--aclfile", users, "--dir", r.dir, "--appendonly", "yes", "--save", "")
	if err != nil {
		t.Fatalf("%v", err)
	}
	err = r.proc.Ready(func() error {
		conn, err := net.DialTimeout("tcp", r.Address, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return r
}
