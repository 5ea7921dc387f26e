package main

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/braidmq/braid/internal/process"
)

// A limitPart is a part of a process whose bounds --limit sets, by the names of its
// configuration's fields: KAFKA.IdleTimeout is kafka.idle-timeout.
type limitPart struct {
	name, about string
	roles       []process.Role
	config      func(*process.Config) any
	filled      []string // fields that other settings fill in
}

var limitParts = []limitPart{
	{
		"kafka", "The Kafka facade of gateways, and the Kafka bootstrap of a name service",
		[]process.Role{process.Gateway, process.NameServer},
		func(c *process.Config) any { return &c.Kafka },
		[]string{"GroupMinSessionTimeout", "GroupMaxSessionTimeout", "GroupConsumerSessionTimeout", "GroupConsumerHeartbeatInterval", "DefaultPartitions"},
	},
	{"connect", "The Connect API of gateways", []process.Role{process.Gateway}, func(c *process.Config) any { return &c.Gateway }, nil},
	{"names", "The name service, also of gateways", []process.Role{process.Gateway, process.NameServer}, func(c *process.Config) any { return &c.NameServer }, nil},
	{"groups", "The coordinators of groups", []process.Role{process.Gateway}, func(c *process.Config) any { return &c.Groups }, nil},
	{"router", "What reads from physical clusters and writes to them", []process.Role{process.Gateway}, func(c *process.Config) any { return &c.Router }, nil},
	{"upstream", "Connections to physical clusters", []process.Role{process.Gateway, process.Controller}, func(c *process.Config) any { return &c.Upstream }, nil},
	{"map", "How the map comes from the controller", []process.Role{process.Gateway, process.NameServer}, func(c *process.Config) any { return &c.MapWatch }, nil},
	{"controller", "Controllers", []process.Role{process.Controller}, func(c *process.Config) any { return &c.Controller }, nil},
}

// A limit is one bound of a part.
type limit struct {
	name  string
	field string
	of    *limitPart
	value reflect.Value // of the configuration that was asked about
}

var limitTypes = []reflect.Type{reflect.TypeFor[int](), reflect.TypeFor[int32](), reflect.TypeFor[int64](), reflect.TypeFor[float64](), reflect.TypeFor[time.Duration]()}

// limitsOf returns the bounds of a configuration, of all parts.
func limitsOf(c *process.Config) []limit {
	var all []limit
	for i := range limitParts {
		part := &limitParts[i]
		v := reflect.ValueOf(part.config(c)).Elem()
		for n := range v.NumField() {
			field := v.Type().Field(n)
			if !field.IsExported() || !slices.Contains(limitTypes, field.Type) || slices.Contains(part.filled, field.Name) {
				continue
			}
			all = append(all, limit{name: part.name + "." + kebab(field.Name), field: field.Name, of: part, value: v.Field(n)})
		}
	}
	return all
}

// kebab writes FetchBytesMax as fetch-bytes-max, and TTLMax as ttl-max.
func kebab(name string) string {
	var out []string
	for name != "" {
		n := 1
		switch {
		case strings.HasPrefix(name, "ACLs"):
			n = len("ACLs")
		default:
			for n < len(name) && name[n] >= 'A' && name[n] <= 'Z' && (n+1 == len(name) || name[n+1] >= 'A' && name[n+1] <= 'Z') {
				n++ // an abbreviation
			}
			for n < len(name) && (name[n] < 'A' || name[n] > 'Z') {
				n++
			}
		}
		out = append(out, strings.ToLower(name[:n]))
		name = name[n:]
	}
	return strings.Join(out, "-")
}

// limits adds --limit. It is the last of a command's flags, as it leaves out what has one.
func (s *serving) limits(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&s.limited, "limit", nil, "a bound or a wait that has no flag of its own, as NAME=VALUE; see the list of limits")
	s.flagged = flagged(&s.config, cmd.Flags())
	cmd.Annotations = map[string]string{flaggedLimits: strings.Join(slices.Sorted(maps.Keys(s.flagged)), " ")}
}

// flaggedLimits annotates a command with the names of bounds that it has a flag for.
const flaggedLimits = "flagged-limits"

// flagged returns the names of bounds that flags set.
func flagged(c *process.Config, flags *pflag.FlagSet) map[string]string {
	at := make(map[uintptr]string)
	flags.VisitAll(func(f *pflag.Flag) {
		if v := reflect.ValueOf(f.Value); v.Kind() == reflect.Pointer {
			at[v.Pointer()] = f.Name // the value of a number's flag is the number itself
		}
	})
	names := make(map[string]string)
	for _, l := range limitsOf(c) {
		if flag := at[l.value.Addr().Pointer()]; flag != "" {
			names[l.name] = flag
		}
	}
	return names
}

// applyLimits sets those of the limits that belong to the role of a process.
func (s *serving) applyLimits(c *process.Config) error {
	all := limitsOf(c)
	for _, given := range s.limited {
		name, value, _ := strings.Cut(given, "=")
		i := slices.IndexFunc(all, func(l limit) bool { return l.name == name })
		switch {
		case i < 0:
			return usagef("--limit %s: there is no limit %q%s", given, name, suggest(name, namesOf(all)))
		case s.flagged[name] != "":
			return usagef("--limit %s: this one has a flag, --%s", given, s.flagged[name])
		case !slices.Contains(all[i].of.roles, c.Role):
			continue // another role's: one file can serve all
		}
		if err := all[i].set(value); err != nil {
			return usagef("--limit %s: %w", given, err)
		}
	}
	return nil
}

func namesOf(limits []limit) []string {
	names := make([]string, len(limits))
	for i, l := range limits {
		names[i] = l.name
	}
	return names
}

// set parses a value: a number, with KiB, MiB or GiB behind it if it counts bytes, or a
// duration. Zero would be the default, so it is refused.
func (l *limit) set(text string) error {
	text = strings.TrimSpace(text)
	var err error
	switch v := l.value.Addr().Interface().(type) {
	case *time.Duration:
		if *v, err = time.ParseDuration(text); err != nil {
			return errors.New("want a duration, such as 500ms or 10s")
		}
	case *float64:
		if *v, err = strconv.ParseFloat(text, 64); err != nil {
			return errors.New("want a number")
		}
	default:
		shift := 0
		for unit, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
			if number, ok := strings.CutSuffix(text, unit); ok {
				text, shift = number, bits
			}
		}
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil || n<<shift>>shift != n || l.value.OverflowInt(n<<shift) {
			return errors.New("want a whole number; KiB, MiB or GiB may follow")
		}
		l.value.SetInt(n << shift)
	}
	if l.value.IsZero() {
		return errors.New("0 stands for the default: leave it out, or give another value")
	}
	return nil
}
