package redisstore

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// The driver writes to stderr by itself, past slog. What it says is also in the
// errors that it returns, which callers log.
func init() { redis.SetLogger(silent{}) }

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
