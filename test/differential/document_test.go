package differential_test

import (
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/test/differential"
)

var update = flag.Bool("update", false, "rewrite docs/kafka-differences.md")

func TestDocument(t *testing.T) {
	const path = "../../docs/kafka-differences.md"
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(differential.Document()), 0o644))
	}
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, differential.Document(), string(b), "docs/kafka-differences.md is not what rules.go says: run go generate ./test/differential")
}
