package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// outputFlag gives a command -o.
func outputFlag(cmd *cobra.Command) {
	cmd.Flags().StringP("output", "o", "table", "how to print: table, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
}

// printMessage writes an answer as -o says: as a table, or the admin API's message.
func printMessage(cmd *cobra.Command, msg proto.Message, table func(*rows)) error {
	return printJSON(cmd, func() ([]byte, error) { return toJSON(msg) }, table)
}

func printJSON(cmd *cobra.Command, marshal func() ([]byte, error), table func(*rows)) error {
	format, err := cmd.Flags().GetString("output")
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	switch format {
	case "table":
		r := &rows{w: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
		table(r)
		return r.w.Flush()
	case "json", "yaml":
		b, err := marshal()
		if err != nil {
			return err
		}
		if format == "yaml" {
			if b, err = toYAML(b); err != nil {
				return err
			}
		}
		_, err = out.Write(append(bytes.TrimRight(b, "\n"), '\n'))
		return err
	default:
		return usagef("--output %q: want table, json or yaml", format)
	}
}

// toJSON marshals with all fields, so that scripts find zeros too, and the same
// way every time.
func toJSON(msg proto.Message) ([]byte, error) {
	b, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(msg)
	if err != nil {
		return nil, err
	}
	return indent(b)
}

func indent(b []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// toYAML turns JSON into YAML with its keys in their order.
func toYAML(b []byte) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	blockStyle(&doc)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func blockStyle(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode {
		n.Style = 0
	} else if n.Style == yaml.DoubleQuotedStyle && n.Tag == "!!str" {
		n.Style = 0 // the encoder quotes where it must
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// rows writes a table.
type rows struct{ w *tabwriter.Writer }

func (r *rows) row(cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		text[i] = fmt.Sprint(c)
		if text[i] == "" {
			text[i] = "-"
		}
	}
	_, _ = fmt.Fprintln(r.w, strings.Join(text, "\t"))
}
