package main

import (
	"fmt"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// Flags that are no settings.
var notSettings = []string{"help", "version"}

// envName returns the environment variable of a flag.
func envName(flag string) string {
	return "BRAID_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// applySettings gives every flag of cmd that the command line does not set its
// value from the environment or from the file that --config names. It is the one
// way in which settings come in: a flag needs nothing but its definition.
func applySettings(cmd *cobra.Command, env func(string) (string, bool)) error {
	flags := cmd.Flags()
	file := map[string]setting{}
	path, _ := env(envName("config"))
	// Where --config is a flag of the command itself, only the variable names the file.
	if p, err := flags.GetString("config"); err == nil && p != "" {
		path = p
	}
	var err error
	if path != "" {
		if file, err = readSettings(path, knownSettings(cmd.Root())); err != nil {
			return err
		}
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if err != nil || f.Changed || f.Name == "config" || slices.Contains(notSettings, f.Name) {
			return
		}
		if v, ok := env(envName(f.Name)); ok {
			err = assign(flags, f, split(f, v), envName(f.Name))
			return
		}
		if s, ok := file[f.Name]; ok {
			err = assign(flags, f, s.values, s.where)
		}
	})
	return err
}

// assign sets a flag; a list flag once for each value.
func assign(flags *pflag.FlagSet, f *pflag.Flag, values []string, where string) error {
	if _, list := f.Value.(pflag.SliceValue); !list && len(values) != 1 {
		return fmt.Errorf("%s: %s takes one value, not %d", where, f.Name, len(values))
	}
	for _, v := range values {
		if err := flags.Set(f.Name, v); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
	}
	return nil
}

// split reads a list from an environment variable: stringSlice flags split at
// commas themselves; the values of stringArray flags can hold commas, so they
// are separated by semicolons.
func split(f *pflag.Flag, v string) []string {
	if f.Value.Type() == "stringArray" {
		return strings.FieldsFunc(v, func(r rune) bool { return r == ';' })
	}
	return []string{v}
}

// A setting is what a configuration file says of one flag.
type setting struct {
	values []string
	where  string // file:line
}

// readSettings reads a configuration file: one key for each flag, a scalar or a
// list. Keys of other commands are fine, so one file can serve all roles; keys
// of no command are errors.
func readSettings(path string, known []string) (map[string]setting, error) {
	b, err := os.ReadFile(path) //nolint:gosec // the user names the file, and reads it with own rights
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("--config: %s: %w", path, err)
	}
	all := make(map[string]setting)
	if len(doc.Content) == 0 {
		return all, nil
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("--config: %s:%d: want `key: value` lines", path, top.Line)
	}
	for i := 0; i < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		where := path + ":" + strconv.Itoa(key.Line)
		if !slices.Contains(known, key.Value) {
			return nil, fmt.Errorf("%s: unknown key %q%s", where, key.Value, suggest(key.Value, known))
		}
		s := setting{where: where}
		if s.values, err = scalars(value); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", where, key.Value, err)
		}
		all[key.Value] = s
	}
	return all, nil
}

// scalars reads a scalar, a list of scalars, or a mapping as a list of k=v.
func scalars(n *yaml.Node) ([]string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		return []string{n.Value}, nil
	case yaml.SequenceNode:
		var all []string
		for _, c := range n.Content {
			if c.Kind != yaml.ScalarNode {
				return nil, fmt.Errorf("line %d: want a list of plain values", c.Line)
			}
			all = append(all, c.Value)
		}
		return all, nil
	case yaml.MappingNode:
		var all []string
		for i := 0; i < len(n.Content); i += 2 {
			v, err := scalars(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			all = append(all, n.Content[i].Value+"="+strings.Join(v, ","))
		}
		return all, nil
	default:
		return nil, fmt.Errorf("line %d: want a plain value or a list", n.Line)
	}
}

// suggest names the known key that is nearest in spelling.
func suggest(key string, known []string) string {
	best, bestDistance := "", 3
	for _, k := range known {
		if d := distance(strings.ToLower(strings.ReplaceAll(key, "_", "-")), k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// knownSettings lists the flags of all commands.
func knownSettings(root *cobra.Command) []string {
	seen := make(map[string]bool)
	walk(root, func(cmd *cobra.Command) {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "config" && !slices.Contains(notSettings, f.Name) {
				seen[f.Name] = true
			}
		})
	})
	all := make([]string, 0, len(seen))
	for name := range seen {
		all = append(all, name)
	}
	sort.Strings(all)
	return all
}

func walk(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		walk(c, f)
	}
}
