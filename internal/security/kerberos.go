package security

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/krberror"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"github.com/jcmturner/gokrb5/v8/types"
	"github.com/twmb/franz-go/pkg/sasl"
)

// GSSAPI is Kerberos, a mechanism of physical clusters only.
const GSSAPI = "GSSAPI"

const (
	krb5ConfDefault    = "/etc/krb5.conf"
	serviceNameDefault = "kafka"
)

// principalName is NAME, NAME/INSTANCE, or one of these with @REALM.
var principalName = regexp.MustCompile(`^([^@/\s]+(?:/[^@/\s]+)*)(?:@([^@/\s]+))?$`)

// kerberos proves who we are by a ticket of a KDC.
func (r *profileReader) kerberos(p *Profile, s *profileSASL) (sasl.Mechanism, error) {
	parts := principalName.FindStringSubmatch(s.Principal)
	switch {
	case parts == nil:
		return nil, r.errorf("sasl: %s needs principal: NAME, NAME/INSTANCE, or one of these with @REALM", GSSAPI)
	case (s.KeytabFile == "") == (s.PasswordFile == ""):
		return nil, r.errorf("sasl: %s needs either keytab-file or password-file", GSSAPI)
	}
	file := s.Krb5Conf
	if file == "" {
		file = krb5ConfDefault
	}
	path := r.path(file)
	conf, err := r.krb5Conf(path)
	if err != nil {
		return nil, err
	}
	k := &kdc{conf: conf, user: parts[1], realm: parts[2], service: s.ServiceName, noFAST: s.DisableFAST}
	if k.service == "" {
		k.service = serviceNameDefault
	}
	if k.realm == "" {
		k.realm = conf.LibDefaults.DefaultRealm
	}
	switch known := slices.ContainsFunc(conf.Realms, func(of config.Realm) bool { return of.Realm == k.realm && len(of.KDC) > 0 }); {
	case k.realm == "":
		return nil, r.errorf("sasl: principal has no @REALM, and %s no default_realm", path)
	case !known && !conf.LibDefaults.DNSLookupKDC:
		return nil, r.errorf("sasl: %s names no kdc of the realm %s, and has no dns_lookup_kdc = true", path, k.realm)
	}
	p.User = k.user + "@" + k.realm
	if s.KeytabFile == "" {
		k.password, err = r.secret("sasl: password-file", s.PasswordFile)
	} else {
		k.keytab, err = r.keytab(s.KeytabFile, k.user, k.realm)
	}
	if err != nil {
		return nil, err
	}
	return &kerberosMechanism{kdc: k, tickets: newTicketSource(k.login, k.ticket)}, nil
}

// guarded tells of a reader that a half-written file made fall.
func guarded(read func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("it cannot be read")
		}
	}()
	return read()
}

// krb5Conf reads a krb5.conf; what it includes is not read.
func (r *profileReader) krb5Conf(path string) (*config.Config, error) {
	b, err := r.read(path)
	if err != nil {
		return nil, err
	}
	var conf *config.Config
	err = guarded(func() (err error) {
		conf, err = config.NewFromReader(bytes.NewReader(b))
		return err
	})
	if _, ok := errors.AsType[config.UnsupportedDirective](err); err != nil && !ok {
		return nil, r.errorf("sasl: krb5-conf: %s: %v", path, err)
	}
	return conf, nil
}

// keytab reads the newest keys of a principal: the library would take the first of those that
// were written within one second.
func (r *profileReader) keytab(file, user, realm string) (*keytab.Keytab, error) {
	path := r.path(file)
	b, err := r.read(path)
	if err != nil {
		return nil, err
	}
	kt := keytab.New()
	if guarded(func() error { return kt.Unmarshal(b) }) != nil { // the error can hold the keys
		return nil, r.errorf("sasl: keytab-file: %s is no keytab", path)
	}
	var newest uint32
	ours := func(i int) bool {
		of := kt.Entries[i].Principal
		return of.Realm == realm && strings.Join(of.Components, "/") == user
	}
	for i := range kt.Entries {
		if ours(i) {
			newest = max(newest, kt.Entries[i].KVNO)
		}
	}
	for i, e := range slices.Backward(kt.Entries) {
		if !ours(i) || e.KVNO != newest {
			kt.Entries = slices.Delete(kt.Entries, i, i+1)
		}
	}
	if len(kt.Entries) == 0 {
		return nil, r.errorf("sasl: keytab-file: %s has no key of %s@%s", path, user, realm)
	}
	return kt, nil
}

// A kdc is asked for tickets. Each question is put by a client of its own: one of the library
// that has logged in renews its login by itself until somebody stops it, and one that is shared
// cannot be stopped safely.
type kdc struct {
	conf                  *config.Config
	user, realm, password string
	keytab                *keytab.Keytab // nil = by password
	service               string
	noFAST                bool
}

func (k *kdc) client() *client.Client {
	fast := client.DisablePAFXFAST(k.noFAST)
	if k.keytab != nil {
		return client.NewWithKeytab(k.user, k.realm, k.keytab, k.conf, fast)
	}
	return client.NewWithPassword(k.user, k.realm, k.password, k.conf, fast)
}

// login asks for a ticket to ask for tickets.
func (k *kdc) login() (grant, error) {
	cl := k.client()
	defer cl.Destroy()
	req, err := messages.NewASReqForTGT(k.realm, k.conf, cl.Credentials.CName())
	if err != nil {
		return grant{}, k.failure(err, "")
	}
	rep, err := cl.ASExchange(k.realm, req, 0)
	if err != nil {
		return grant{}, k.failure(err, "")
	}
	return grant{rep.Ticket, rep.DecryptedEncPart.Key, rep.DecryptedEncPart.EndTime}, nil
}

// ticket asks for one that a broker takes.
func (k *kdc) ticket(login grant, host string) (grant, error) {
	cl := k.client()
	defer cl.Destroy()
	realm := k.realm
	if of := k.conf.ResolveRealm(host); of != "" && of != k.realm {
		cross := types.PrincipalName{NameType: nametype.KRB_NT_SRV_INST, NameString: []string{"krbtgt", of}}
		_, rep, err := cl.TGSREQGenerateAndExchange(cross, k.realm, login.ticket, login.key, false)
		if err != nil {
			return grant{}, k.failure(err, host)
		}
		realm, login = of, grant{ticket: rep.Ticket, key: rep.DecryptedEncPart.Key}
	}
	broker := types.NewPrincipalName(nametype.KRB_NT_PRINCIPAL, k.service+"/"+host)
	_, rep, err := cl.TGSREQGenerateAndExchange(broker, realm, login.ticket, login.key, false)
	if err != nil {
		return grant{}, k.failure(err, host)
	}
	return grant{rep.Ticket, rep.DecryptedEncPart.Key, rep.DecryptedEncPart.EndTime}, nil
}

// A kdcError says in words for people why there is no ticket. It holds no address.
type kdcError struct {
	text string
	away bool // the KDC was not reached
}

func (e *kdcError) Error() string { return e.text }

// kdcAnswer is how the library tells what a KDC has answered.
var kdcAnswer = regexp.MustCompile(`KRB Error: \((\d+)\) (\w+)`)

// failure tells why a question failed; host is that of the broker, if it was about one. The
// library has errors as text only.
func (k *kdc) failure(err error, host string) *kdcError {
	text, root := err.Error(), ""
	if e, ok := errors.AsType[krberror.Krberror](err); ok {
		root = e.RootCause
		text = e.EText[len(e.EText)-1] // the innermost
	}
	what := "the login"
	if host != "" {
		what = "a ticket for the brokers"
		text = strings.ReplaceAll(text, host, "BROKER")
	}
	if root == krberror.NetworkingError {
		return &kdcError{fmt.Sprintf("the KDC of the realm %s cannot be reached%s; see krb5-conf", k.realm, networkReason(text)), true}
	}
	if root == krberror.DecryptingError && host == "" { // of a KDC that asks nobody for a proof
		return &kdcError{text: fmt.Sprintf("what the KDC of the realm %s answers to the login cannot be read%s", k.realm, k.hint("24"))}
	}
	if answer := kdcAnswer.FindStringSubmatch(text); answer != nil {
		return &kdcError{text: fmt.Sprintf("the KDC of the realm %s refuses %s: %s%s", k.realm, what, answer[2], k.hint(answer[1]))}
	}
	return &kdcError{text: fmt.Sprintf("no use can be made of what the KDC of the realm %s answers to %s: %s", k.realm, what, text)}
}

// networkReason leaves of an error of the network what holds no address.
func networkReason(text string) string {
	for _, reason := range []string{"connection refused", "i/o timeout", "no such host", "no KDC SRV records"} {
		if strings.Contains(text, reason) {
			return ": " + reason
		}
	}
	return ""
}

// hint says what to do about an error code of a KDC (RFC 4120, section 7.5.9).
func (k *kdc) hint(code string) string {
	switch code {
	case "6":
		return " (it does not know " + k.user + ")"
	case "7":
		return " (it does not know " + k.service + "/HOST, with HOST as the brokers advertise it: see service-name, the seeds of the cluster and advertised.listeners)"
	case "18", "23":
		return " (the principal, or its password, has ended or is locked)"
	case "24":
		if k.keytab == nil {
			return " (the password is not that of the principal)"
		}
		return " (the keytab does not hold the principal's key of now)"
	case "37":
		return " (the clocks differ)"
	}
	return ""
}

// A kerberosMechanism shows brokers tickets that all connections share.
type kerberosMechanism struct {
	kdc     *kdc
	tickets *ticketSource
}

// Name implements sasl.Mechanism.
func (*kerberosMechanism) Name() string { return GSSAPI }

// Authenticate implements sasl.Mechanism.
func (m *kerberosMechanism) Authenticate(ctx context.Context, addr string) (sasl.Session, []byte, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, err
	}
	ticket, err := m.tickets.get(ctx, host)
	if err != nil {
		return nil, nil, err
	}
	switch ticket.key.KeyType {
	case etypeID.AES128_CTS_HMAC_SHA1_96, etypeID.AES256_CTS_HMAC_SHA1_96, etypeID.AES128_CTS_HMAC_SHA256_128, etypeID.AES256_CTS_HMAC_SHA384_192:
	default: // their tokens have another form
		return nil, nil, fmt.Errorf("the KDC gives tickets for the brokers with encryption type %d; only AES is spoken: see krb5-conf, default_tgs_enctypes", ticket.key.KeyType)
	}
	token, err := spnego.NewKRB5TokenAPREQ(m.kdc.client(), ticket.ticket, ticket.key, []int{gssapi.ContextFlagInteg, gssapi.ContextFlagConf}, nil)
	if err != nil {
		return nil, nil, err
	}
	first, err := token.Marshal()
	if err != nil {
		return nil, nil, err
	}
	return &kerberosSession{key: ticket.key, proven: func() { m.tickets.proven(host) }}, first, nil
}

// A kerberosSession agrees with a broker that there is no security layer: Kafka has none, and
// TLS is below (RFC 4752, section 3.1).
type kerberosSession struct {
	key    types.EncryptionKey
	proven func()
	done   bool
}

// noLayer is the bit of the offered layers that stands for none.
const noLayer = 1

// Challenge implements sasl.Session. That the broker has the key of the ticket is its proof
// to us.
func (s *kerberosSession) Challenge(answer []byte) (bool, []byte, error) {
	if s.done {
		return false, nil, errors.New("the broker goes on after its last word")
	}
	s.done = true
	var offer gssapi.WrapToken
	if err := offer.Unmarshal(answer, true); err != nil {
		return false, nil, fmt.Errorf("the broker's answer is no token of Kerberos: %w", err)
	}
	if ok, _ := offer.Verify(s.key, keyusage.GSSAPI_ACCEPTOR_SEAL); !ok { // the error has the right checksum
		return false, nil, errors.New("the broker does not prove that it has the key of its principal")
	}
	if len(offer.Payload) != 4 || offer.Payload[0]&noLayer == 0 {
		return false, nil, errors.New("the broker insists on a security layer of SASL, which Kafka does not have")
	}
	reply, err := gssapi.NewInitiatorWrapToken(binary.BigEndian.AppendUint32(nil, noLayer<<24), s.key)
	if err != nil {
		return false, nil, err
	}
	last, err := reply.Marshal()
	if err != nil {
		return false, nil, err
	}
	s.proven()
	return true, last, nil
}
