package main

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A documented is a flag with the commands that have it.
type documented struct {
	flag     *pflag.Flag
	commands []string
}

// configurationDoc writes docs/configuration.md from the flags of all commands.
func configurationDoc(root *cobra.Command) string {
	var out strings.Builder
	out.WriteString(`# Configuration

This file is made from the flags of the commands; a test compares the two. To
write it anew, run ` + "`go test ./cmd/braid -run TestConfigurationDoc -rewrite`" + `.

Every setting can come from four places. The first that has it wins:

1. the flag on the command line, ` + "`--kafka-listen 0.0.0.0:9092`" + `
2. the environment variable, ` + "`BRAID_KAFKA_LISTEN=0.0.0.0:9092`" + `
3. the YAML file that ` + "`--config FILE` or `BRAID_CONFIG`" + ` names, ` + "`kafka-listen: 0.0.0.0:9092`" + `
4. the default

The key in the file is the flag's name; the variable is ` + "`BRAID_`" + ` and the name in
capitals, with underscores. One file can serve all roles: a command takes the keys
that it knows. A key that no command knows is an error. Lists are separated by commas
in variables (those of type stringArray by semicolons), and are YAML lists in the
file. For ` + "`braid topic create`, where `--config`" + ` is the topic's, ` + "`BRAID_CONFIG`" + `
names the file.

Metrics and traces go out by OTLP if the standard variables of OpenTelemetry ask for
it: ` + "`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_METRICS_EXPORTER`, `OTEL_TRACES_EXPORTER`" + `
and those beside them.
`)
	for _, name := range []string{"dev", "gateway", "controller", "nameserver"} {
		cmd, _, err := root.Find([]string{name})
		if err != nil {
			continue
		}
		fmt.Fprintf(&out, "\n## braid %s\n\n%s.\n\n", name, cmd.Short)
		table(&out, flagsOf(cmd), false)
	}
	out.WriteString("\n## Commands that use the API\n\n")
	table(&out, clientFlags(root), true)
	return out.String()
}

func flagsOf(cmd *cobra.Command) []documented {
	var all []documented
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(notSettings, f.Name) && f.Name != "config" {
			all = append(all, documented{flag: f})
		}
	})
	return all
}

// clientFlags returns the flags of all commands but the roles; those that several
// commands have with the same meaning are one.
func clientFlags(root *cobra.Command) []documented {
	byText := make(map[string]*documented)
	walk(root, func(cmd *cobra.Command) {
		if cmd == root || cmd.GroupID == groupRoles || !cmd.Runnable() || cmd.HasSubCommands() || cmd.Name() == "help" || strings.Contains(cmd.CommandPath(), "completion") {
			return
		}
		path := strings.TrimPrefix(cmd.CommandPath(), "braid ")
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if slices.Contains(notSettings, f.Name) {
				return
			}
			key := f.Name + "\x00" + f.Usage + "\x00" + f.DefValue
			if byText[key] == nil {
				byText[key] = &documented{flag: f}
			}
			byText[key].commands = append(byText[key].commands, path)
		})
	})
	all := make([]documented, 0, len(byText))
	for _, d := range byText {
		all = append(all, *d)
	}
	sort.Slice(all, func(i, j int) bool {
		if all[i].flag.Name != all[j].flag.Name {
			return all[i].flag.Name < all[j].flag.Name
		}
		return all[i].commands[0] < all[j].commands[0]
	})
	return all
}

// manyCommands is from where on a flag's commands are not listed one by one.
const manyCommands = 8

func table(out *strings.Builder, all []documented, commands bool) {
	columns := []string{"flag", "key", "variable", "type", "default", "what it does"}
	if commands {
		columns = append(columns, "commands")
	}
	fmt.Fprintf(out, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat(" --- |", len(columns)))
	for _, d := range all {
		f := d.flag
		flag, key, variable := "`--"+f.Name+"`", "`"+f.Name+"`", "`"+envName(f.Name)+"`"
		if f.Shorthand != "" {
			flag = "`-" + f.Shorthand + "`, " + flag
		}
		if f.Name == "config" {
			key, variable = "", ""
		}
		def := ""
		if f.DefValue != "" && f.DefValue != "[]" {
			def = "`" + f.DefValue + "`"
		}
		cells := []string{flag, key, variable, f.Value.Type(), def, strings.ReplaceAll(f.Usage, "|", `\|`)}
		if commands {
			list := strings.Join(d.commands, ", ")
			if len(d.commands) >= manyCommands {
				list = "most"
			}
			cells = append(cells, list)
		}
		fmt.Fprintf(out, "| %s |\n", strings.Join(cells, " | "))
	}
}
