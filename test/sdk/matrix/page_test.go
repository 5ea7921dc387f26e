package matrix_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/test/sdk/matrix"
)

// docs/clients.md names the clients, features and numbers of cases that there are.
func TestPageIsOfTheseClientsAndFeatures(t *testing.T) {
	page, err := os.ReadFile(matrix.PagePath())
	require.NoError(t, err)
	require.Empty(t, matrix.Check(string(page)), "run task matrix, which writes docs/clients.md anew")
}

// What the check is for: it finds a row and a column too few or too many.
func TestCheckFindsWhatIsNotThere(t *testing.T) {
	b, err := os.ReadFile(matrix.PagePath())
	require.NoError(t, err)
	page := string(b)
	require.NotEmpty(t, matrix.Check(strings.Replace(page, "| gzip |", "| gzipped |", 1)), "a column that has another name")
	lines := strings.SplitAfter(page, "\n")
	row := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "| <a id=") })
	require.Positive(t, row)
	require.NotEmpty(t, matrix.Check(strings.Replace(page, lines[row], "", 1)), "a row too few")
	require.NotEmpty(t, matrix.Check(strings.Replace(page, lines[row], lines[row]+strings.Replace(lines[row], "java-4", "java-9", 1), 1)), "a row too many")
	require.NotEmpty(t, matrix.Check(strings.Replace(page, lines[row], strings.Replace(lines[row], "| 1/1 |", "| 2/2 |", 1), 1)), "a case too many")
}

// A page that has not a column yet, or other notes, keeps what it says of clients that are not tried.
func TestPageKeepsWhatWasNotTried(t *testing.T) {
	b, err := os.ReadFile(matrix.PagePath())
	require.NoError(t, err)
	before := strings.Replace(string(b), "| client.rack |", "| a column of before |", 1)
	require.NotEqual(t, string(b), before)
	after, err := matrix.Page(before, matrix.NewResults())
	require.NoError(t, err)
	require.Empty(t, matrix.Check(after))
	row := func(page string) string {
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, `| <a id="sarama">`) {
				return line
			}
		}
		return ""
	}
	require.Contains(t, row(after), "| not run ")
	require.Equal(t, strings.Count(row(string(b)), " | "), strings.Count(row(after), " | "))
	again, err := matrix.Page(after, matrix.NewResults())
	require.NoError(t, err)
	require.Equal(t, after, again)
}

// Each client has a program, and what it has not or notes is of features that there are.
func TestTableNamesFeaturesThatThereAre(t *testing.T) {
	known := func(id string) bool {
		return id == "*" || slices.ContainsFunc(matrix.Features, func(f matrix.Feature) bool { return f.ID == id })
	}
	seen := make(map[string]bool)
	for _, c := range matrix.Clients {
		require.False(t, seen[c.ID], "client %q is there twice", c.ID)
		seen[c.ID] = true
		require.Contains(t, matrix.Programs, c.ID)
		for _, f := range matrix.Features {
			if cases, _ := c.CasesOf(f); f.ID == "transactions" && len(cases) > 0 {
				require.NotEmpty(t, c.Refusal, "%s: by which error is a transactional id refused?", c.ID)
			}
		}
		for id := range c.Without {
			require.True(t, known(id), "%s has no feature %q", c.ID, id)
		}
		for id := range c.Cases {
			require.True(t, known(id), "%s has no feature %q", c.ID, id)
		}
		for id := range c.Notes {
			require.True(t, known(id), "%s has no feature %q", c.ID, id)
		}
	}
	require.Len(t, matrix.Programs, len(seen), "a program without a row")
}
