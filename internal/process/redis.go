package process

import (
	"fmt"
	"log/slog"

	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/security"
)

// RedisFiles are the files with which Redis is reached. They are read again when they
// change, for connections to come.
type RedisFiles struct {
	// CA signs the certificate of a rediss:// server; empty = whom the system trusts.
	CA string
	// Cert and Key are shown to a server that asks for a certificate.
	Cert, Key string
	// Password holds the password of the user of the URL.
	Password string
}

// openRedis makes a store; it does not connect yet.
func openRedis(cfg redisstore.Config, files RedisFiles, log *slog.Logger) (*redisstore.Store, error) {
	if files.CA != "" || files.Cert != "" || files.Key != "" {
		pair := security.TLSFiles{Cert: files.Cert, Key: files.Key}
		if err := pair.Validate("redis-"); err != nil {
			return nil, ConfigError{err.Error()}
		}
		secure, err := pair.Client(log, files.CA)
		if err != nil {
			return nil, configErrorf("--redis-tls-ca, --redis-tls-cert or --redis-tls-key: %v", err)
		}
		cfg.TLS = secure.Config
	}
	if files.Password != "" {
		password, err := security.ReadPassword(files.Password, log)
		if err != nil {
			return nil, configErrorf("--redis-password-file: %v", err)
		}
		cfg.Password = password
	}
	store, err := redisstore.Open(cfg)
	if err != nil {
		return nil, ConfigError{fmt.Sprintf("--redis: %v", err)}
	}
	return store, nil
}
