package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTargetsAreFound(t *testing.T) {
	targets, err := find("../..")
	require.NoError(t, err)
	require.Contains(t, targets, target{"./../../kafkacompat", "FuzzRequests"})
	require.Contains(t, targets, target{"./../../internal/security", "FuzzToken"})
}

func TestOutputIsRead(t *testing.T) {
	o := read(strings.NewReader(`fuzz: elapsed: 0s, gathering baseline coverage: 0/20 completed
fuzz: elapsed: 3s, execs: 100 (33/sec), new interesting: 1 (total: 21)
fuzz: elapsed: 6s, execs: 250 (50/sec), new interesting: 2 (total: 22)
    Failing input written to testdata/fuzz/FuzzX/0123
`))
	require.Equal(t, outcome{elapsed: 6 * time.Second, execs: 250, new: 2, all: 22, crashedBy: "testdata/fuzz/FuzzX/0123"}, o)
}
