package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A break that does not fit the product any more breaks nothing.
func TestBreaksFitTheProduct(t *testing.T) {
	for _, b := range breaches {
		for _, e := range b.edits {
			source, err := os.ReadFile(filepath.Join("..", "..", "..", e.file))
			require.NoError(t, err, b.name)
			require.Equal(t, 1, strings.Count(string(source), e.old), "break %s: %s has to have once: %q", b.name, e.file, e.old)
		}
	}
}
