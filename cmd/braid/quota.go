package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

func quotaCommand() *cobra.Command {
	return parent("quota", "Quotas: how much users, client ids and IP addresses may take, at each gateway",
		quotaSetCommand(), quotaListCommand(), quotaDeleteCommand())
}

// quotaFlags say whom a quota is for.
type quotaFlags struct {
	cmd              *cobra.Command
	user, client, ip string
	defaults         [3]bool
	logical          *string
}

func newQuotaFlags(cmd *cobra.Command) *quotaFlags {
	q := &quotaFlags{cmd: cmd, logical: logicalFlag(cmd)}
	f := cmd.Flags()
	f.StringVar(&q.user, "user", "", "a user, such as alice; ANONYMOUS is who proves nothing")
	f.StringVar(&q.client, "client-id", "", "a client id")
	f.StringVar(&q.ip, "ip", "", "an IP address, for connection_creation_rate")
	f.BoolVar(&q.defaults[0], "user-default", false, "each user that has no quota of its own")
	f.BoolVar(&q.defaults[1], "client-id-default", false, "each client id that has no quota of its own")
	f.BoolVar(&q.defaults[2], "ip-default", false, "each IP address that has no quota of its own")
	return q
}

// entity returns whom the flags name; it is empty if they name nobody.
func (q *quotaFlags) entity() (*adminv1.QuotaEntity, bool, error) {
	e, named := &adminv1.QuotaEntity{}, false
	for i, p := range []struct {
		flag string
		name string
		to   **string
	}{{"user", q.user, &e.User}, {"client-id", q.client, &e.ClientId}, {"ip", q.ip, &e.Ip}} {
		switch given := q.cmd.Flags().Changed(p.flag); {
		case given && q.defaults[i]:
			return nil, false, usagef("give one of --%s and --%s-default", p.flag, p.flag)
		case given && p.name == "":
			return nil, false, usagef("--%s is empty; --%s-default is for those that have no quota of their own", p.flag, p.flag)
		case given || q.defaults[i]:
			*p.to, named = new(p.name), true
		}
	}
	return e, named, nil
}

func quotaSetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set KEY=VALUE…",
		Short: "Set what a user, a client id or an IP address may take at each gateway",
		Long: "Set what a user, a client id or an IP address may take at each gateway.\n\n" +
			"Keys: producer_byte_rate and consumer_byte_rate (bytes a second), request_rate (requests a second), request_percentage\n" +
			"(of the time of one processor), controller_mutation_rate (partitions created and deleted a second);\n" +
			"of IP addresses connection_creation_rate (connections a second).",
		Example: "  braid quota set producer_byte_rate=1048576 --user alice\n" +
			"  braid quota set consumer_byte_rate=5e6 request_rate=100 --user alice --client-id reports\n" +
			"  braid quota set producer_byte_rate=1e6 --client-id-default\n" +
			"  braid quota set connection_creation_rate=10 --ip-default",
		Args: cobra.MinimumNArgs(1),
	}
	q := newQuotaFlags(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, c *api, args []string) error {
		entity, named, err := q.entity()
		if err != nil {
			return err
		}
		if !named {
			return usagef("say whose quota it is: --user, --client-id, --ip, or one of them with -default")
		}
		change := &adminv1.QuotaChange{Entity: entity, Set: make(map[string]float64)}
		for _, arg := range args {
			key, text, _ := strings.Cut(arg, "=")
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return usagef("%q: want KEY=NUMBER, such as producer_byte_rate=1048576", arg)
			}
			change.Set[key] = v
		}
		return q.alter(cmd, c, change)
	})
	return cmd
}

func (q *quotaFlags) alter(cmd *cobra.Command, c *api, change *adminv1.QuotaChange) error {
	req := &adminv1.AlterQuotasRequest{Parent: logicalName(*q.logical), Changes: []*adminv1.QuotaChange{change}}
	if _, err := call(cmd.Context(), c, c.quotas.AlterQuotas, req); err != nil {
		return err
	}
	cmd.PrintErrf("quota of %s changed\n", quotaWhom(change.GetEntity()))
	return nil
}

func quotaListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the quotas, or those of a user, client id or IP address",
		Example: "  braid quota list\n  braid quota list --user alice",
		Args:    noArgs,
	}
	outputFlag(cmd)
	q := newQuotaFlags(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, c *api, _ []string) error {
		entity, _, err := q.entity()
		if err != nil {
			return err
		}
		all, err := q.list(cmd, c, entity)
		if err != nil {
			return err
		}
		return printMessage(cmd, all, func(r *rows) {
			r.row("USER", "CLIENT ID", "IP", "KEY", "VALUE")
			for _, one := range all.GetQuotas() {
				e := one.GetEntity()
				for _, key := range slices.Sorted(maps.Keys(one.GetValues())) {
					r.row(quotaName(e.User), quotaName(e.ClientId), quotaName(e.Ip), key, strconv.FormatFloat(one.GetValues()[key], 'f', -1, 64))
				}
			}
		})
	})
	return cmd
}

// list returns the quotas that have every part of an entity.
func (q *quotaFlags) list(cmd *cobra.Command, c *api, entity *adminv1.QuotaEntity) (*adminv1.ListQuotasResponse, error) {
	all := &adminv1.ListQuotasResponse{}
	has := func(want, have *string) bool { return want == nil || have != nil && *want == *have }
	err := pages(func(token string) (string, error) {
		resp, err := call(cmd.Context(), c, c.quotas.ListQuotas, &adminv1.ListQuotasRequest{Parent: logicalName(*q.logical), PageToken: token})
		for _, one := range resp.GetQuotas() {
			if e := one.GetEntity(); has(entity.User, e.User) && has(entity.ClientId, e.ClientId) && has(entity.Ip, e.Ip) {
				all.Quotas = append(all.Quotas, one)
			}
		}
		return resp.GetNextPageToken(), err
	})
	return all, err
}

func quotaDeleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete [KEY…]", Short: "Delete the quota of a user, client id or IP address, or some keys of it",
		Example: "  braid quota delete --user alice\n  braid quota delete producer_byte_rate --client-id-default",
		Args:    cobra.ArbitraryArgs,
	}
	q := newQuotaFlags(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, c *api, args []string) error {
		entity, named, err := q.entity()
		if err != nil {
			return err
		}
		if !named {
			return usagef("say whose quota it is: --user, --client-id, --ip, or one of them with -default")
		}
		all, err := q.list(cmd, c, entity)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all.GetQuotas(), func(one *adminv1.ClientQuota) bool { return quotaWhom(one.GetEntity()) == quotaWhom(entity) })
		if i < 0 {
			return fmt.Errorf("%s has no quota; braid quota list shows those that there are", quotaWhom(entity))
		}
		have := all.GetQuotas()[i].GetValues()
		for _, key := range args {
			if _, ok := have[key]; !ok {
				return fmt.Errorf("%s has no quota %q", quotaWhom(entity), key)
			}
		}
		if len(args) == 0 {
			args = slices.Sorted(maps.Keys(have))
		}
		return q.alter(cmd, c, &adminv1.QuotaChange{Entity: entity, Remove: args})
	})
	return cmd
}

func quotaName(name *string) string {
	switch {
	case name == nil:
		return "-"
	case *name == "":
		return "<default>"
	default:
		return *name
	}
}

func quotaWhom(e *adminv1.QuotaEntity) string {
	var parts []string
	for _, p := range []struct {
		what string
		name *string
	}{{"user", e.User}, {"client id", e.ClientId}, {"ip", e.Ip}} {
		if p.name != nil {
			parts = append(parts, p.what+" "+quotaName(p.name))
		}
	}
	return strings.Join(parts, ", ")
}
