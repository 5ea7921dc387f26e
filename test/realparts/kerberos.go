package realparts

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Realm is that of a KDC.
const Realm = "BRAID.TEST"

// brokerPrincipal is that of brokers, which are all at 127.0.0.1.
const brokerPrincipal = "kafka/127.0.0.1"

// A KDC is a real one of MIT Kerberos, at a free port of 127.0.0.1, with files of its own.
type KDC struct {
	// Conf is a krb5.conf that names it.
	Conf string

	dir, javaConf, address string
	proc                   *Process
}

const kdcConf = `[kdcdefaults]
kdc_listen = %[1]s
kdc_tcp_listen = %[1]s
[realms]
%[2]s = {
  database_name = %[3]s/principal
  key_stash_file = %[3]s/stash
  acl_file = %[3]s/acl
  supported_enctypes = aes256-cts:normal aes128-cts:normal
  default_principal_flags = +preauth
}
[logging]
kdc = FILE:%[3]s/requests
`

const krb5Conf = `[libdefaults]
default_realm = %[2]s
dns_lookup_kdc = false
dns_lookup_realm = false
%[3]s
[realms]
%[2]s = {
  kdc = %[1]s
}
`

// StartKDC starts one that knows brokers, and nobody else.
func StartKDC(t TB) *KDC {
	t.Helper()
	dir := t.TempDir()
	k := &KDC{Conf: filepath.Join(dir, "krb5.conf"), javaConf: filepath.Join(dir, "java.conf"), dir: dir, address: FreeAddress(t)}
	for file, text := range map[string]string{
		k.Conf:      fmt.Sprintf(krb5Conf, k.address, Realm, ""),
		k.javaConf:  fmt.Sprintf(krb5Conf, k.address, Realm, "udp_preference_limit = 1"),
		k.kdcConf(): fmt.Sprintf(kdcConf, k.address, Realm, dir),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatalf("kdc: %v", err)
		}
	}
	k.run(t, k.program(t, "kdb5_util"), "create", "-s", "-P", "master")
	k.Add(t, brokerPrincipal, "")
	k.Start(t)
	return k
}

func (k *KDC) kdcConf() string { return filepath.Join(k.dir, "kdc.conf") }

// command is a program that finds the files of this KDC.
func (k *KDC) command(program string, args ...string) []string {
	return append([]string{"env", "KRB5_CONFIG=" + k.Conf, "KRB5_KDC_PROFILE=" + k.kdcConf(), program}, args...)
}

func (k *KDC) run(t TB, program string, args ...string) {
	t.Helper()
	command := k.command(program, args...)
	if err := Output(k.dir, command[0], command[1:]...); err != nil {
		t.Fatalf("kdc: %v", err)
	}
}

// program is in a directory that users may not have in their PATH.
func (*KDC) program(t TB, name string) string {
	t.Helper()
	return Program{Name: "/usr/sbin/" + name, Packages: []string{"krb5-kdc", "krb5-admin-server"}}.Path(t)
}

func (k *KDC) admin(t TB, query string) {
	t.Helper()
	k.run(t, k.program(t, "kadmin.local"), "-r", Realm, "-q", query)
}

// Add makes a principal with a password, or with a key that nobody knows.
func (k *KDC) Add(t TB, principal, password string) {
	t.Helper()
	with := "-randkey"
	if password != "" {
		with = "-pw " + password
	}
	k.admin(t, "addprinc "+with+" "+principal)
}

// Keytab gives a principal a new key, and writes it to a file in place of what is there.
func (k *KDC) Keytab(t TB, principal, file string) {
	t.Helper()
	fresh := filepath.Join(k.dir, "fresh.keytab")
	k.admin(t, "ktadd -k "+fresh+" "+principal)
	if err := os.Rename(fresh, file); err != nil {
		t.Fatalf("kdc: %v", err)
	}
}

// Start starts the KDC, also one that was killed.
func (k *KDC) Start(t TB) {
	t.Helper()
	command := k.command(k.program(t, "krb5kdc"), "-n")
	var err error
	if k.proc, err = StartProcess(t, "krb5kdc", k.dir, command...); err == nil {
		err = k.proc.Ready(func() error {
			conn, err := net.DialTimeout("tcp", k.address, time.Second)
			if err == nil {
				_ = conn.Close()
			}
			return err
		})
	}
	if err != nil {
		t.Fatalf("kdc: %v", err)
	}
}

// Kill ends it as its death would.
func (k *KDC) Kill() { k.proc.Kill() }

// Issued is how many tickets of a kind it has given to a principal: AS_REQ are logins, TGS_REQ
// tickets for brokers.
func (k *KDC) Issued(t TB, kind, principal string) (n int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(k.dir, "requests"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("kdc: %v", err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, kind) && strings.Contains(line, " ISSUE: ") && strings.Contains(line, " "+principal+"@"+Realm+" for ") {
			n++
		}
	}
	return n
}

// kerberosKafka is a broker that asks for Kerberos, and denies nobody anything.
type kerberosKafka struct{ keytab, conf string }

func (k *kerberosKafka) javaArgs() []string {
	return []string{"-Djava.security.krb5.conf=" + k.conf}
}

func (k *kerberosKafka) settings(session time.Duration) string {
	return `# Kerberos.
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
sasl.enabled.mechanisms=GSSAPI
sasl.kerberos.service.name=kafka
listener.name.sasl_plaintext.gssapi.sasl.jaas.config=com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true keyTab="` +
		k.keytab + `" principal="` + brokerPrincipal + "@" + Realm + `";
connections.max.reauth.ms=` + strconv.FormatInt(session.Milliseconds(), 10) + "\n"
}

// StartKerberosKafka starts a cluster of one real broker that asks for Kerberos at SASL, in
// plain text; sessions must be renewed before lifetime is over. RekeyBrokers changes its key.
func (k *KDC) StartKerberosKafka(t TB, heapMB int, lifetime time.Duration, name string) *SecureKafka {
	t.Helper()
	k.RekeyBrokers(t)
	return startGuardedKafka(t, heapMB, secureKafka{SessionLifetime: lifetime, kerberos: &kerberosKafka{keytab: k.brokerKeytab(), conf: k.javaConf}}, name)[0]
}

func (k *KDC) brokerKeytab() string { return filepath.Join(k.dir, "broker.keytab") }

// RekeyBrokers gives brokers a new key, and leaves them none of the former ones.
func (k *KDC) RekeyBrokers(t TB) {
	t.Helper()
	k.Keytab(t, brokerPrincipal, k.brokerKeytab())
}
