package security

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/sasl"
	"go.yaml.in/yaml/v3"
)

// Profiles are the security profiles of a directory: how this process speaks TLS with a
// physical cluster, and how it proves who it is. The map names a profile for each
// cluster; what is in it stays with the process. The file of a profile is NAME.yaml. It
// names other files for all that is secret. All are read again when they change.
// It is safe for concurrent use.
type Profiles struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex // guards the following
	files map[string]*profileFile
}

// OpenProfiles opens a directory of profiles. They are read when they are needed.
func OpenProfiles(dir string, logger *slog.Logger) (*Profiles, error) {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, fmt.Errorf("%s is no directory", dir)
	}
	return &Profiles{dir: dir, log: logger, files: make(map[string]*profileFile)}, nil
}

// A ProfileError says why a profile cannot be used. Its text holds no secret.
type ProfileError struct {
	Profile string
	Reason  string
}

func (e *ProfileError) Error() string {
	return fmt.Sprintf("security profile %q: %s", e.Profile, e.Reason)
}

// profileName is what a name of a profile looks like: a part of a file's name.
var profileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// CheckProfileName refuses a name that no profile can have.
func CheckProfileName(name string) error {
	if !profileName.MatchString(name) {
		return fmt.Errorf("security profile %q: want 1 to 63 letters, digits, dots, underscores and dashes, with a letter or a digit first", name)
	}
	return nil
}

// Profile returns a profile as its files are now, or were when they could last be read.
// Errors are of type *ProfileError.
func (p *Profiles) Profile(name string) (*Profile, error) {
	if p == nil {
		return nil, &ProfileError{name, "this process has no directory of profiles: set --cluster-security-dir"}
	}
	if err := CheckProfileName(name); err != nil {
		return nil, &ProfileError{name, "the name is none that a profile can have"}
	}
	p.mu.Lock()
	f := p.files[name]
	if f == nil {
		f = &profileFile{name: name, path: filepath.Join(p.dir, name+".yaml")}
		p.files[name] = f
	}
	p.mu.Unlock()
	return f.get(p.log)
}

// A profileFile is one profile, with what it was read from.
type profileFile struct {
	name, path string

	mu      sync.Mutex // guards the following
	profile *Profile   // nil until it could be read
	err     error      // of the last reading
	stamp   string
	checked time.Time
	files   []string // that the profile was made of
}

func (f *profileFile) get(logger *slog.Logger) (*Profile, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if !f.checked.IsZero() && now.Sub(f.checked) < reloadInterval {
		return f.current()
	}
	f.checked = now
	if len(f.files) == 0 {
		f.files = []string{f.path}
	}
	stamp := stampOf(f.files)
	if stamp == f.stamp {
		return f.current()
	}
	fresh, err := f.read()
	f.err = err
	switch {
	case err == nil:
		if f.profile != nil {
			logger.Info("a changed security profile is used", "profile", f.name)
		}
		f.profile = fresh
	case f.profile != nil:
		logger.Error("a changed security profile cannot be used; what was read before stays", "profile", f.name, "err", err)
	}
	return f.current()
}

// read reads the profile, and notes how its files were before: what is written meanwhile
// is seen at the next look.
func (f *profileFile) read() (fresh *Profile, err error) {
	for range 2 {
		had, before := f.files, stampOf(f.files)
		fresh, f.files, err = readProfile(f.name, f.path)
		f.stamp = before
		if slices.Equal(had, f.files) {
			break // else it is not known how the other files were
		}
	}
	return fresh, err
}

func (f *profileFile) current() (*Profile, error) {
	if f.profile != nil {
		return f.profile, nil
	}
	return nil, f.err
}

// A Profile is how to reach a physical cluster. It does not change; files that change
// make a new one.
type Profile struct {
	Name string
	// TLS is of connections to brokers, without the server's name; nil = none.
	TLS *tls.Config
	// Mechanism proves who this process is; nil = it does not.
	Mechanism sasl.Mechanism
	// User is the name that it shows, for texts; empty if that is not known.
	User string
}

func (p *Profile) String() string { return fmt.Sprintf("security profile %q", p.Name) }

// What a profile's file holds. Secrets are in files of their own, so that this one can
// lie with the configuration.
type profileText struct {
	TLS  *profileTLS  `yaml:"tls"`
	SASL *profileSASL `yaml:"sasl"`
}

type profileTLS struct {
	CA         string `yaml:"ca"`
	Cert       string `yaml:"cert"`
	Key        string `yaml:"key"`
	ServerName string `yaml:"server-name"`
}

type profileSASL struct {
	Mechanism       string `yaml:"mechanism"`
	AllowWithoutTLS bool   `yaml:"allow-without-tls"`

	Username     string `yaml:"username"`
	UsernameFile string `yaml:"username-file"`
	PasswordFile string `yaml:"password-file"`

	TokenFile        string            `yaml:"token-file"`
	TokenURL         string            `yaml:"token-url"`
	TokenCA          string            `yaml:"token-ca"`
	ClientID         string            `yaml:"client-id"`
	ClientSecretFile string            `yaml:"client-secret-file"`
	Scope            string            `yaml:"scope"`
	Extensions       map[string]string `yaml:"extensions"`

	AccessKeyFile    string `yaml:"access-key-file"`
	SecretKeyFile    string `yaml:"secret-key-file"`
	SessionTokenFile string `yaml:"session-token-file"`

	Principal   string `yaml:"principal"`
	KeytabFile  string `yaml:"keytab-file"`
	Krb5Conf    string `yaml:"krb5-conf"`
	ServiceName string `yaml:"service-name"`
	DisableFAST bool   `yaml:"disable-fast"`
}

// A profileReader reads a profile's files, and notes which they are.
type profileReader struct {
	name, dir string
	files     []string
}

// profileBytesMax bounds one file of a profile.
const profileBytesMax = 1 << 20

func (r *profileReader) errorf(format string, args ...any) error {
	return &ProfileError{r.name, fmt.Sprintf(format, args...)}
}

// path is a file that the profile names; relative names begin at its directory.
func (r *profileReader) path(file string) string {
	if !filepath.IsAbs(file) {
		file = filepath.Join(r.dir, file)
	}
	r.files = append(r.files, file)
	return file
}

func (r *profileReader) read(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, r.errorf("%v", err) // names the file
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, profileBytesMax+1))
	switch {
	case err != nil:
		return nil, r.errorf("%v", err)
	case len(b) > profileBytesMax:
		return nil, r.errorf("%s is larger than %d bytes", path, profileBytesMax)
	}
	return b, nil
}

// secret reads a file of one secret: a line end behind it does not count.
func (r *profileReader) secret(key, file string) (string, error) {
	if file == "" {
		return "", r.errorf("%s is missing", key)
	}
	path := r.path(file)
	b, err := r.read(path)
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(b), "\r\n")
	if text == "" {
		return "", r.errorf("%s: %s is empty", key, path)
	}
	return text, nil
}

// readProfile reads a profile, and tells of which files it is made, also of one that
// cannot be used.
func readProfile(name, path string) (*Profile, []string, error) {
	r := &profileReader{name: name, dir: filepath.Dir(path), files: []string{path}}
	b, err := r.read(path)
	if err != nil {
		return nil, r.files, err
	}
	var text profileText
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&text); err != nil && !errors.Is(err, io.EOF) {
		return nil, r.files, r.errorf("%s: %s", path, withoutValues(err))
	}
	if text.TLS == nil && text.SASL == nil {
		return nil, r.files, r.errorf("%s has neither tls nor sasl; a cluster without both needs no profile (tls: {} is TLS with the system's authorities)", path)
	}
	p := &Profile{Name: name}
	if text.TLS != nil {
		if p.TLS, err = r.tls(text.TLS); err != nil {
			return nil, r.files, err
		}
	}
	if text.SASL != nil {
		if err := r.sasl(p, text.SASL); err != nil {
			return nil, r.files, err
		}
	}
	return p, r.files, nil
}

var (
	quotedValue  = regexp.MustCompile("`[^`]*`")
	unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)
)

// withoutValues is the text of an error of the YAML reader without what stood in the
// file: a secret may have been put there by mistake.
func withoutValues(err error) string {
	text := quotedValue.ReplaceAllString(err.Error(), "a value")
	text = unknownField.ReplaceAllString(text, "the key $1 is not known")
	return text + " (secrets stand in files of their own, such as password-file)"
}

func (r *profileReader) tls(t *profileTLS) (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: t.ServerName,
		// Large writes go out as full records; small first ones help browsers only.
		DynamicRecordSizingDisabled: true,
		ClientSessionCache:          tls.NewLRUClientSessionCache(64),
	}
	if t.CA != "" {
		path := r.path(t.CA)
		pool, err := LoadPool(path)
		if err != nil {
			return nil, r.errorf("tls: ca: %v", err)
		}
		cfg.RootCAs = pool
	}
	if (t.Cert == "") != (t.Key == "") {
		return nil, r.errorf("tls: cert and key go together")
	}
	if t.Cert != "" {
		certPath, keyPath := r.path(t.Cert), r.path(t.Key)
		cert, err := tls.LoadX509KeyPair(certPath, keyPath)
		if err != nil {
			return nil, r.errorf("tls: cert %s and key %s: %v", certPath, keyPath, err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}
