package security

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/krberror"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
	"github.com/stretchr/testify/require"
)

const testConf = `includedir /etc/krb5.conf.d/
[libdefaults]
  default_realm = EXAMPLE.COM
[realms]
  EXAMPLE.COM = {
    kdc = kdc.example.com
  }
  EMPTY.COM = {
    admin_server = kdc.example.com
  }
[domain_realm]
  .other.org = OTHER.ORG
`

func writeKeytab(t *testing.T, file string, entries ...string) {
	t.Helper()
	kt := keytab.New()
	for i, name := range entries {
		require.NoError(t, kt.AddEntry(name, "EXAMPLE.COM", "secret-"+name, time.Unix(1e9, 0), uint8(i+1), etypeID.AES256_CTS_HMAC_SHA1_96))
	}
	b, err := kt.Marshal()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, b, 0o600))
}

func TestKerberosProfiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("krb5.conf", testConf)
	write("dns.conf", "[libdefaults]\ndns_lookup_kdc = true\n")
	write("broken.conf", "[realms]\nX = {\nkdc }\n}\n")
	write("lines.conf", "[libdefaults]\nhello\n")
	write("password", "correct-horse")
	write("garbage.keytab", "\x05\x02\x7f\xff\xff\xffcorrect-horse")
	write("cut.keytab", "\x05")
	writeKeytab(t, filepath.Join(dir, "braid.keytab"), "braid", "braid/gw-1", "braid", "other")
	profiles, err := OpenProfiles(dir, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	const conf, key = "  krb5-conf: krb5.conf\n", "  keytab-file: braid.keytab\n"
	read := func(name, rest string) (*Profile, error) {
		write(name+".yaml", "sasl:\n  mechanism: gssapi\n"+rest)
		return profiles.Profile(name)
	}

	p, err := read("keytab", conf+key+"  principal: braid\n")
	require.NoError(t, err, "it sends no secret, so it needs no TLS")
	require.Equal(t, "braid@EXAMPLE.COM", p.User)
	require.Equal(t, GSSAPI, p.Mechanism.Name())
	k := p.Mechanism.(*kerberosMechanism).kdc
	require.Equal(t, "kafka", k.service)
	require.Len(t, k.keytab.Entries, 1)
	require.EqualValues(t, 3, k.keytab.Entries[0].KVNO, "the newest")
	require.Equal(t, []string{"kdc.example.com:88"}, k.conf.Realms[0].KDC)

	p, err = read("instance", conf+key+"  principal: braid/gw-1@EXAMPLE.COM\n  service-name: broker\n  disable-fast: true\n")
	require.NoError(t, err)
	require.Equal(t, "braid/gw-1@EXAMPLE.COM", p.User)
	k = p.Mechanism.(*kerberosMechanism).kdc
	require.Equal(t, "broker", k.service)
	require.True(t, k.noFAST)

	p, err = read("password", "  krb5-conf: dns.conf\n  password-file: password\n  principal: braid@OTHER.ORG\n")
	require.NoError(t, err)
	require.Equal(t, "braid@OTHER.ORG", p.User)
	require.Nil(t, p.Mechanism.(*kerberosMechanism).kdc.keytab)

	for name, c := range map[string]struct{ text, want string }{
		"none":      {conf + key, "needs principal"},
		"odd":       {conf + key + "  principal: a@b@c\n", "needs principal"},
		"secret":    {conf + "  principal: braid\n", "either keytab-file or password-file"},
		"secrets":   {conf + key + "  principal: braid\n  password-file: password\n", "either keytab-file or password-file"},
		"realm":     {conf + key + "  principal: braid@EMPTY.COM\n", "names no kdc of the realm EMPTY.COM"},
		"default":   {"  krb5-conf: dns.conf\n  principal: braid\n" + key, "no default_realm"},
		"broken":    {"  krb5-conf: broken.conf\n  principal: braid\n" + key, "broken.conf"},
		"lines":     {"  krb5-conf: lines.conf\n  principal: braid\n" + key, "lines.conf"},
		"away":      {"  krb5-conf: none.conf\n  principal: braid\n" + key, "none.conf"},
		"missing":   {conf + "  principal: braid\n  keytab-file: none.keytab\n", "none.keytab"},
		"garbage":   {conf + "  principal: braid\n  keytab-file: garbage.keytab\n", "is no keytab"},
		"cut":       {conf + "  principal: braid\n  keytab-file: cut.keytab\n", "is no keytab"},
		"elsewhere": {conf + key + "  principal: carol\n", "has no key of carol@EXAMPLE.COM"},
		"misspelt":  {conf + key + "  principal: braid\n  key-tab: x\n", "the key key-tab is not known"},
	} {
		_, err := read(name, c.text)
		require.ErrorContains(t, err, c.want, name)
		require.NotContains(t, err.Error(), "correct-horse")
		_, ok := errors.AsType[*ProfileError](err)
		require.True(t, ok)
	}
}

// A half-written keytab must not make the process fall, or be told.
func FuzzKeytab(f *testing.F) {
	kt := keytab.New()
	require.NoError(f, kt.AddEntry("braid", "EXAMPLE.COM", "secret", time.Unix(1e9, 0), 1, etypeID.AES256_CTS_HMAC_SHA1_96))
	b, err := kt.Marshal()
	require.NoError(f, err)
	f.Add(b, []byte(testConf))
	f.Add(b[:20], []byte("[realms]\n}\n"))
	f.Add([]byte("\x05\x02\x80\x00\x00\x00"), []byte("[libdefaults]\n=\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, key, conf []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "k"), key, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "c"), conf, 0o600))
		r := &profileReader{name: "p", dir: dir}
		if kt, err := r.keytab("k", "braid", "EXAMPLE.COM"); err == nil {
			require.NotEmpty(t, kt.Entries)
		}
		_, _ = r.krb5Conf(filepath.Join(dir, "c"))
	})
}

func TestWhyThereIsNoTicket(t *testing.T) {
	k := &kdc{user: "braid", realm: "EXAMPLE.COM", service: "kafka", keytab: keytab.New()}
	for _, c := range []struct {
		err        error
		host, want string
		away       bool
	}{
		{krberror.NewErrorf(krberror.NetworkingError, "AS Exchange Error: failed sending AS_REQ to KDC: %v", "dial tcp 10.1.2.3:88: connect: connection refused"), "", "the KDC of the realm EXAMPLE.COM cannot be reached: connection refused; see krb5-conf", true},
		{krberror.NewErrorf(krberror.NetworkingError, "something about 10.1.2.3"), "", "the KDC of the realm EXAMPLE.COM cannot be reached; see krb5-conf", true},
		{krberror.Errorf(messages.KRBError{ErrorCode: 24, EText: "PREAUTH_FAILED"}, krberror.KDCError, "x"), "", "the KDC of the realm EXAMPLE.COM refuses the login: KDC_ERR_PREAUTH_FAILED (the keytab does not hold the principal's key of now)", false},
		{krberror.Errorf(messages.KRBError{ErrorCode: 7}, krberror.KDCError, "for kafka/10.1.2.3"), "10.1.2.3", "the KDC of the realm EXAMPLE.COM refuses a ticket for the brokers: KDC_ERR_S_PRINCIPAL_UNKNOWN (it does not know kafka/HOST, with HOST as the brokers advertise it: see service-name, the seeds of the cluster and advertised.listeners)", false},
		{krberror.Errorf(messages.KRBError{ErrorCode: 37}, krberror.KDCError, "x"), "", "the KDC of the realm EXAMPLE.COM refuses the login: KRB_AP_ERR_SKEW (the clocks differ)", false},
		{krberror.Errorf(messages.KRBError{ErrorCode: 12}, krberror.KDCError, "x"), "", "the KDC of the realm EXAMPLE.COM refuses the login: KDC_ERR_POLICY", false},
		{krberror.Errorf(errors.New("integrity"), krberror.DecryptingError, "x"), "", "what the KDC of the realm EXAMPLE.COM answers to the login cannot be read (the keytab does not hold the principal's key of now)", false},
		{errors.New("no use of 10.1.2.3"), "10.1.2.3", "no use can be made of what the KDC of the realm EXAMPLE.COM answers to a ticket for the brokers: no use of BROKER", false},
	} {
		err := k.failure(c.err, c.host)
		require.EqualError(t, err, c.want)
		require.Equal(t, c.away, err.away)
	}
	k.keytab = nil
	require.Contains(t, k.hint("24"), "the password")
}

// The last step: the broker proves that it has the key, and no layer is agreed on.
func TestKerberosSessions(t *testing.T) {
	key := types.EncryptionKey{KeyType: etypeID.AES256_CTS_HMAC_SHA1_96, KeyValue: []byte("0123456789abcdef0123456789abcdef")}
	offer := func(payload string, key types.EncryptionKey) []byte {
		b, err := hex.DecodeString(payload)
		require.NoError(t, err)
		token := gssapi.WrapToken{Flags: 1, EC: 12, Payload: b}
		require.NoError(t, token.SetCheckSum(key, keyusage.GSSAPI_ACCEPTOR_SEAL))
		out, err := token.Marshal()
		require.NoError(t, err)
		return out
	}
	taken := 0
	session := func() *kerberosSession { return &kerberosSession{key: key, proven: func() { taken++ }} }
	for _, layers := range []string{"01000000", "07ffffff"} {
		s := session()
		done, last, err := s.Challenge(offer(layers, key))
		require.NoError(t, err)
		require.True(t, done)
		var reply gssapi.WrapToken
		require.NoError(t, reply.Unmarshal(last, false))
		ok, err := reply.Verify(key, keyusage.GSSAPI_INITIATOR_SEAL)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, []byte{1, 0, 0, 0}, reply.Payload)
		_, _, err = s.Challenge(offer(layers, key))
		require.ErrorContains(t, err, "goes on")
	}
	require.Equal(t, 2, taken)
	other := types.EncryptionKey{KeyType: key.KeyType, KeyValue: []byte("another-key-another-key-another-")}
	for want, answer := range map[string][]byte{
		"no token":       nil,
		"does not prove": offer("01000000", other),
		"insists":        offer("06000000", key),
		"insists on":     offer("", key),
	} {
		_, _, err := session().Challenge(answer)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "omputed")
	}
	require.Equal(t, 2, taken)
}
