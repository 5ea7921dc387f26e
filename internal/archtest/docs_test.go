package archtest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	namingv1 "github.com/braidmq/braid/gen/braid/naming/v1"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

// firstCell is the code in the first cell of a row of a table.
var firstCell = regexp.MustCompile("(?m)^\\| `([A-Za-z_]+)` \\|(.*)$")

func document(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	require.NoError(t, err)
	return string(b)
}

func rowsOf(doc string) map[string]string {
	rows := make(map[string]string)
	for _, m := range firstCell.FindAllStringSubmatch(doc, -1) {
		rows[m[1]] = m[2]
	}
	return rows
}

// Every call of a public service has a row in a table of docs/api.md.
func TestEveryCallIsDocumented(t *testing.T) {
	rows := rowsOf(document(t, "api.md"))
	for _, file := range []protoreflect.FileDescriptor{
		braidv1.File_braid_v1_producer_proto, braidv1.File_braid_v1_consumer_proto, adminv1.File_braid_admin_v1_admin_proto, adminv1.File_braid_admin_v1_acl_proto,
		adminv1.File_braid_admin_v1_credential_proto, namingv1.File_braid_naming_v1_naming_proto,
	} {
		require.NotZero(t, file.Services().Len(), file.Path())
		for i := range file.Services().Len() {
			for j := range file.Services().Get(i).Methods().Len() {
				method := file.Services().Get(i).Methods().Get(j)
				require.Contains(t, rows, string(method.Name()), "docs/api.md has no row for %s", method.FullName())
			}
		}
	}
}

// inFrames are the reasons that no call ends with.
var inFrames = []braidv1.Reason{braidv1.Reason_REASON_EARLIER_FAILURE, braidv1.Reason_REASON_STALE_PARTITION_COUNT}

// The table of errors in docs/api.md says what the table in rpcerror does.
func TestEveryReasonIsDocumented(t *testing.T) {
	_, section, found := strings.Cut(document(t, "api.md"), "\n## Errors\n")
	require.True(t, found, "docs/api.md has no section Errors")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := rowsOf(section)
	for number, name := range braidv1.Reason_name {
		reason := braidv1.Reason(number)
		if reason == braidv1.Reason_REASON_UNSPECIFIED {
			continue
		}
		name = strings.TrimPrefix(name, "REASON_")
		row, ok := rows[name]
		require.True(t, ok, "docs/api.md has no row for the reason %s", name)
		delete(rows, name)
		cells := strings.Split(row, "|")
		require.GreaterOrEqual(t, len(cells), 3, name)
		codes, retry := codesOf(reason)
		require.ElementsMatch(t, codes, strings.Split(strings.TrimSpace(cells[0]), ", "), "the codes of %s", name)
		require.Equal(t, retry, strings.TrimSpace(cells[1]), "whether %s is retriable", name)
	}
	require.Empty(t, rows, "docs/api.md has reasons that do not exist")
}

// codesOf returns the codes of all kinds that clients see as a reason, and
// whether they are retriable.
func codesOf(reason braidv1.Reason) (codes []string, retry string) {
	if slices.Contains(inFrames, reason) {
		return []string{"in frames only"}, "yes"
	}
	for _, kind := range federation.Kinds() {
		if rpcerror.Reason(kind) != reason {
			continue
		}
		if code := strings.ToUpper(rpcerror.Code(kind).String()); !slices.Contains(codes, code) {
			codes = append(codes, code)
		}
		this := "no"
		if kind.Retriable() {
			this = "yes"
		}
		if retry != "" && retry != this {
			this = "by kind"
		}
		retry = this
	}
	return codes, retry
}

// instrument is the name of a metric of ours, as it is registered.
var instrument = regexp.MustCompile(`"(braid\.[a-z.]+)"`)

// Every metric is in docs/operations.md.
func TestEveryMetricIsDocumented(t *testing.T) {
	doc := document(t, "operations.md")
	seen := 0
	for _, f := range goFiles(t) {
		if f.Test || !slices.Contains([]string{"internal/process", "kafkacompat", "controller"}, f.Package()) {
			continue
		}
		source, err := os.ReadFile(filepath.Join("..", "..", f.Path))
		require.NoError(t, err)
		for _, m := range instrument.FindAllStringSubmatch(string(source), -1) {
			if m[1] == "braid.id" {
				continue // an attribute
			}
			seen++
			name := strings.ReplaceAll(m[1], ".", "_")
			require.Regexp(t, "`"+name+"(_total|_bytes|_bytes_total|_ratio|_seconds)?`", doc, "%s: docs/operations.md does not mention %s", f.Path, name)
		}
	}
	require.NotZero(t, seen, "no metric was found")
}
