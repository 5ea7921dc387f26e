package archtest_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/archtest"
)

// edges is the direction of imports: what each package may import of ours. Doors
// stand on engines, engines on adapters, adapters on the core. Test files are free.
var edges = map[string]struct {
	may []string
	why string
}{
	// The core: values in, values out.
	"federation":                 {nil, "the model is pure: no clock, network, log or bytes of ours in it"},
	"federation/federationtest":  {[]string{"federation"}, "builders of maps for tests"},
	"federation/wire":            {[]string{"federation", "gen/braid/control/v1"}, "the one place that turns maps into bytes"},
	"internal/lifecycle":         {nil, "a named task group, of use to anybody"},
	"internal/recordbatch":       {[]string{"federation"}, "bytes of record batches and the typed errors for bad ones"},
	"internal/mark":              {[]string{"federation", "gen/braid/control/v1", "internal/recordbatch"}, "control records to batches and back: values in, bytes out"},
	"internal/acl":               {[]string{"federation", "internal/security"}, "who may do what: the ACLs of a map, compiled"},
	"internal/quota":             {[]string{"federation", "internal/logging"}, "how much clients may take: the quotas of a map, counted"},
	"internal/memory":            {nil, "budgets of bytes, of use to all who hold much"},
	"internal/logging":           {nil, "bounds of logs, of use to all who log what clients do"},
	"internal/layout/layouttest": {nil, "random messages for tests"},
	"internal/layout":            {nil, "the shape of Kafka messages, checked before a codec trusts their counts"},
	"internal/security":          {[]string{"federation"}, "who a client is and what proves it, of use to all doors"},
	"internal/rpcerror":          {[]string{"federation", "gen/braid/v1"}, "one table from kinds to Connect codes, for all who answer or call"},
	"internal/archtest":          {nil, "reads source files only"},

	// Adapters: each the sole owner of a library.
	"internal/upstream":   {[]string{"federation", "internal/layout", "internal/memory", "internal/recordbatch", "internal/security"}, "physical clusters know no map but names, numbers and headers of batches; what proves us to them is in files"},
	"internal/journal":    {[]string{"federation", "federation/wire", "gen/braid/control/v1", "internal/recordbatch", "internal/upstream"}, "maps and offsets as records of topics on the physical clusters"},
	"internal/redisstore": {[]string{"federation", "federation/wire", "gen/braid/control/v1"}, "stores maps and groups as bytes"},

	// Engines. They never meet: a consume handler joins groups and router itself.
	"gateway/router":     {[]string{"federation", "internal/mark", "internal/memory", "internal/recordbatch", "internal/upstream", "internal/redisstore"}, "appends and reads; Redis for producer id ranges"},
	"gateway/groups":     {[]string{"federation", "internal/logging", "internal/redisstore", "internal/rpcerror", "gen/braid/control/v1", "gen/braid/control/v1/controlv1connect"}, "the coordinator, its store, and the relay between gateways"},
	"gateway/mapwatch":   {[]string{"federation", "federation/wire", "internal/redisstore", "internal/rpcerror", "gen/braid/control/v1", "gen/braid/control/v1/controlv1connect"}, "follows the controller's stream, starts cold from Redis"},
	"controller/planner": {[]string{"federation"}, "decisions as pure functions"},

	// Doors and services. They never meet each other.
	"gateway": {
		[]string{
			"gateway/router", "gateway/groups", "federation", "internal/acl", "internal/logging", "internal/memory", "internal/quota", "internal/recordbatch", "internal/rpcerror", "internal/security",
			"gen/braid/v1", "gen/braid/v1/braidv1connect", "gen/braid/admin/v1", "gen/braid/admin/v1/adminv1connect",
			"gen/braid/naming/v1", "gen/braid/naming/v1/namingv1connect",
		}, "the Connect door over both engines; admin calls are passed on to the controller",
	},
	"kafkacompat": {[]string{"gateway/router", "gateway/groups", "federation", "internal/acl", "internal/layout", "internal/logging", "internal/memory", "internal/quota", "internal/recordbatch", "internal/security"}, "the Kafka door over both engines; it never imports the other door"},
	"controller": {
		[]string{
			"controller/planner", "federation", "federation/wire", "internal/journal", "internal/mark", "internal/recordbatch", "internal/redisstore", "internal/rpcerror", "internal/security", "internal/upstream",
			"gen/braid/admin/v1", "gen/braid/admin/v1/adminv1connect", "gen/braid/control/v1", "gen/braid/control/v1/controlv1connect",
			"gen/braid/v1", "gen/braid/v1/braidv1connect",
		}, "the only writer of maps; imported offsets of groups go through a gateway",
	},
	"nameserver": {[]string{"federation", "internal/redisstore", "internal/rpcerror", "gen/braid/naming/v1", "gen/braid/naming/v1/namingv1connect"}, "one pure assignment over the map"},

	// Wiring: sees everybody, seen only from here down.
	"internal/process": {
		[]string{
			"gateway", "gateway/router", "gateway/groups", "gateway/mapwatch", "kafkacompat", "controller", "nameserver", "federation",
			"internal/acl", "internal/logging", "internal/security", "internal/lifecycle", "internal/memory", "internal/quota", "internal/redisstore", "internal/rpcerror", "internal/upstream", "gen/...",
		}, "the one place that wires roles together",
	},
	"internal/embedded": {[]string{"internal/process", "internal/lifecycle", "internal/redisstore", "internal/security", "federation", "gen/..."}, "a whole federation in one process"},
	"cmd/braid":         {[]string{"internal/process", "internal/embedded", "internal/lifecycle", "internal/logging", "internal/memory", "internal/rpcerror", "internal/security", "federation", "gen/..."}, "roles through process, everything else through the public API"},

	// Tests of the whole go in by the public doors.
	"test/realparts":                 {[]string{"test/..."}, "real Kafka and Redis know nothing of braid"},
	"test/check":                     {nil, "checkers of histories are pure"},
	"test/suite":                     {[]string{"test/...", "internal/embedded", "internal/process", "federation", "gen/..."}, "behaviour through public doors, on embedded or real parts"},
	"test/differential":              {[]string{"test/..."}, "requests to a broker and to the binary, and their answers"},
	"test/sdk":                       {[]string{"test/...", "gen/..."}, "unmodified clients against the binary"},
	"test/world":                     {[]string{"test/...", "gen/...", "internal/embedded", "internal/process"}, "the two worlds of the suite: everything in the test's process, or processes of the built binary"},
	"test/continuity":                {[]string{"test/...", "gen/..."}, "clients under faults, against the binary"},
	"test/continuity/clients/sarama": {nil, "an unmodified client, in a module of its own"},
	"test/simnet":                    {nil, "a network of its own, of use to any test in virtual time"},
	"test/sim": {
		[]string{"test/...", "gen/...", "internal/embedded", "internal/process", "internal/lifecycle", "internal/redisstore", "internal/mark", "internal/recordbatch", "controller"},
		"real wiring on parts in memory; everything else by public doors",
	},
	"test/sim/simrun": {nil, "builds and runs the simulation; changes source, and imports none"},
	"test/fuzz":       {nil, "runs the fuzz targets; imports none"},
	"test/bench": {
		[]string{"test/realparts", "internal/embedded", "internal/recordbatch", "internal/redisstore", "gateway/mapwatch", "federation", "federation/wire", "gen/..."},
		"load on the binary and on Kafka, compared; many gateways that only follow the map",
	},

	"test/sdk/matrix":                     {[]string{"test/...", "gen/..."}, "the table of unmodified clients and features, and its page"},
	"test/sdk/matrix/clients/franz":       {nil, "an unmodified client, in a module of its own"},
	"test/sdk/matrix/clients/sarama":      {nil, "an unmodified client, in a module of its own"},
	"test/sdk/matrix/clients/segmentio":   {nil, "an unmodified client, in a module of its own"},
	"test/sdk/matrix/clients/confluentgo": {nil, "an unmodified client, in a module of its own"},
}

// owners says which packages may import a library, tests aside.
var owners = []struct {
	library  string
	packages []string
	why      string
}{
	{"github.com/twmb/franz-go/pkg/kgo", []string{"internal/upstream"}, "one owner of clients of physical clusters"},
	{"github.com/twmb/franz-go/pkg/kadm", nil, "admin of physical clusters goes through internal/upstream's own requests"},
	{"github.com/twmb/franz-go/pkg/kmsg", []string{"internal/layout/layouttest", "internal/upstream", "gateway/router", "gateway/groups", "kafkacompat"}, "who reads or writes the Kafka protocol"},
	{"github.com/twmb/franz-go/pkg/kfake", []string{"internal/embedded"}, "the embedded clusters"},
	{"github.com/go-jose/", []string{"internal/security"}, "one owner of what is proven by tokens"},
	{"github.com/redis/go-redis", []string{"internal/redisstore"}, "one owner of keys and scripts"},
	{"github.com/alicebob/miniredis", []string{"internal/embedded"}, "the embedded Redis"},
	{
		"connectrpc.com/",
		[]string{"gateway", "gateway/mapwatch", "gateway/groups", "controller", "nameserver", "internal/rpcerror", "internal/process", "internal/embedded", "cmd/braid"},
		"who serves or calls Connect",
	},
	{"github.com/spf13/", []string{"cmd/braid"}, "the command line"},
	{"github.com/prometheus/", []string{"internal/process"}, "metrics are exported in one place and recorded by OpenTelemetry"},
	{"github.com/stretchr/testify", nil, "for tests only"},
}

func isTestTree(pkg string) bool { return strings.HasPrefix(pkg, "test/") }

func mayImport(allowed []string, pkg string) bool {
	return slices.ContainsFunc(allowed, func(a string) bool {
		prefix, tree := strings.CutSuffix(a, "/...")
		return a == pkg || tree && strings.HasPrefix(pkg, prefix+"/")
	})
}

func goFiles(t *testing.T) []*archtest.File {
	t.Helper()
	root, err := archtest.Root()
	require.NoError(t, err)
	files, err := archtest.GoFiles(root)
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

func TestImportsPointOneWay(t *testing.T) {
	seen := make(map[string]bool)
	for _, f := range goFiles(t) {
		pkg := f.Package()
		seen[pkg] = true
		row, known := edges[pkg]
		if !known {
			t.Errorf("%s: package %q has no row in the table of imports: give it one, with its reason", f.Path, pkg)
			continue
		}
		if f.Test {
			continue
		}
		for _, imported := range f.Imports() {
			if ours, ok := strings.CutPrefix(imported, archtest.Module+"/"); ok && !mayImport(row.may, ours) {
				t.Errorf("%s imports %s, which its row in the table of imports does not allow (%s)", f.Path, ours, row.why)
			}
		}
	}
	for pkg, row := range edges {
		require.NotEmpty(t, row.why, "package %q has no reason", pkg)
		if !seen[pkg] {
			t.Errorf("the table of imports has a row for %q, which does not exist", pkg)
		}
	}
}

func TestLibrariesHaveOwners(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.Test || isTestTree(f.Package()) {
			continue
		}
		for _, imported := range f.Imports() {
			for _, o := range owners {
				if (imported == o.library || strings.HasPrefix(imported, strings.TrimSuffix(o.library, "/")+"/")) && !slices.Contains(o.packages, f.Package()) {
					t.Errorf("%s imports %s; only %v may: %s", f.Path, imported, o.packages, o.why)
				}
			}
		}
	}
}

func TestAssertionsAreRequire(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, imported := range f.Imports() {
			switch imported {
			case "github.com/stretchr/testify/assert", "github.com/stretchr/testify/mock", "github.com/stretchr/testify/suite":
				t.Errorf("%s imports %s: tests use testify/require, and doubles that speak the protocol", f.Path, filepath.Base(imported))
			}
		}
	}
}
