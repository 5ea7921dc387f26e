package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

func tenantCommand() *cobra.Command {
	return parent("tenant", "Logical clusters of one deployment, apart from each other",
		tenantCreateCommand(), tenantListCommand(), tenantDescribeCommand(), tenantUpdateCommand(), tenantDeleteCommand())
}

func tenantName(id string) string { return "tenants/" + id }

const descriptionHelp = "what people should know of it"

func tenantCreateCommand() *cobra.Command {
	var description string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a tenant, and the logical cluster of its name", Args: cobra.ExactArgs(1),
		Long: `Create a tenant: a logical cluster with topics, groups, users and ACLs of its own, on the
physical clusters and gateways of the deployment. Gateways serve it with --tenants.`,
		Example: "  braid tenant create acme\n  braid tenant create acme --max-topics 50 --max-connections 200\n  braid topic create orders --logical-cluster acme\n  braid credential create alice --logical-cluster acme   # who logs in as acme/alice",
	}
	outputFlag(cmd)
	cmd.Flags().StringVar(&description, "description", "", descriptionHelp)
	limits := limitFlags(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.tenants.CreateTenant, &adminv1.CreateTenantRequest{TenantId: args[0], Tenant: &adminv1.Tenant{Description: description, Limits: limits}})
		if err != nil {
			return err
		}
		return printMessage(cmd, resp.GetTenant(), func(r *rows) { r.row("tenant " + args[0] + " created") })
	})
	return cmd
}

// tenantLimits are the limits of a tenant, by their names in flags and in messages.
var tenantLimits = []struct {
	name, field, what string
	of                func(*adminv1.TenantLimits) *int32
}{
	{"max-topics", "topics", "topics", func(l *adminv1.TenantLimits) *int32 { return &l.Topics }},
	{"max-partitions", "partitions", "partitions, of all topics together", func(l *adminv1.TenantLimits) *int32 { return &l.Partitions }},
	{"max-groups", "groups", "groups", func(l *adminv1.TenantLimits) *int32 { return &l.Groups }},
	{"max-connections", "connections", "Kafka connections and Connect streams at each gateway", func(l *adminv1.TenantLimits) *int32 { return &l.Connections }},
	{"max-credentials", "credentials", "credentials", func(l *adminv1.TenantLimits) *int32 { return &l.Credentials }},
	{"max-acls", "acls", "ACLs", func(l *adminv1.TenantLimits) *int32 { return &l.Acls }},
	{"max-quotas", "quotas", "users and client ids that have quotas", func(l *adminv1.TenantLimits) *int32 { return &l.Quotas }},
}

func limitFlags(cmd *cobra.Command) *adminv1.TenantLimits {
	limits := &adminv1.TenantLimits{}
	for _, l := range tenantLimits {
		cmd.Flags().Int32Var(l.of(limits), l.name, 0, "how many it may have: "+l.what+"; 0 = the default of the deployment")
	}
	return limits
}

func tenantListCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List tenants", Args: cobra.NoArgs}
	outputFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, _ []string) error {
		all := &adminv1.ListTenantsResponse{}
		err := pages(func(token string) (string, error) {
			resp, err := call(cmd.Context(), a, a.tenants.ListTenants, &adminv1.ListTenantsRequest{PageToken: token})
			all.Tenants = append(all.Tenants, resp.GetTenants()...)
			return resp.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return printMessage(cmd, all, func(r *rows) {
			r.row("TENANT", "STATE", "TOPICS", "PARTITIONS", "CREDENTIALS", "ACLS", "DESCRIPTION")
			for _, t := range all.GetTenants() {
				r.row(strings.TrimPrefix(t.GetName(), "tenants/"), tenantState(t), t.GetTopics(), t.GetPartitions(), t.GetCredentials(), t.GetAcls(), t.GetDescription())
			}
		})
	})
	return cmd
}

func tenantState(t *adminv1.Tenant) string {
	return strings.ToLower(strings.TrimPrefix(t.GetState().String(), "STATE_"))
}

func tenantDescribeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "describe NAME", Short: "Show a tenant", Args: cobra.ExactArgs(1)}
	outputFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.tenants.GetTenant, &adminv1.GetTenantRequest{Name: tenantName(args[0])})
		if err != nil {
			return err
		}
		return printMessage(cmd, resp.GetTenant(), func(r *rows) { tenantRows(r, resp.GetTenant()) })
	})
	return cmd
}

func tenantRows(r *rows, t *adminv1.Tenant) {
	r.row("Tenant:", strings.TrimPrefix(t.GetName(), "tenants/"))
	r.row("State:", tenantState(t))
	r.row("Description:", t.GetDescription())
	r.row("Cluster id:", t.GetClusterId())
	r.row("Created:", t.GetCreateTime().AsTime().Format("2006-01-02T15:04:05Z"))
	use := &adminv1.TenantLimits{
		Topics: t.GetTopics(), Partitions: t.GetPartitions(), Groups: int32(t.GetGroups()), Connections: t.GetConnections(),
		Credentials: t.GetCredentials(), Acls: t.GetAcls(), Quotas: t.GetQuotas(),
	}
	_, _ = fmt.Fprintln(r.w)
	r.row("HAS", "NOW", "AT MOST", "SET BY")
	for _, l := range tenantLimits {
		most, by := "any number", "-"
		if n := *l.of(t.GetEffectiveLimits()); n > 0 {
			most, by = strconv.Itoa(int(n)), "default"
		}
		if *l.of(t.GetLimits()) > 0 {
			by = "--" + l.name
		}
		r.row(l.what, *l.of(use), most, by)
	}
}

func tenantUpdateCommand() *cobra.Command {
	var description string
	cmd := &cobra.Command{Use: "update NAME", Short: "Change the description and the limits of a tenant", Args: cobra.ExactArgs(1)}
	outputFlag(cmd)
	cmd.Flags().StringVar(&description, "description", "", descriptionHelp)
	limits := limitFlags(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		mask := &fieldmaskpb.FieldMask{}
		if cmd.Flags().Changed("description") {
			mask.Paths = append(mask.Paths, "description")
		}
		for _, l := range tenantLimits {
			if cmd.Flags().Changed(l.name) {
				mask.Paths = append(mask.Paths, "limits."+l.field)
			}
		}
		if len(mask.GetPaths()) == 0 {
			return usagef("nothing is to be changed; set --description, or a limit such as --max-topics")
		}
		resp, err := call(cmd.Context(), a, a.tenants.UpdateTenant, &adminv1.UpdateTenantRequest{UpdateMask: mask, Tenant: &adminv1.Tenant{Name: tenantName(args[0]), Description: description, Limits: limits}})
		if err != nil {
			return err
		}
		return printMessage(cmd, resp.GetTenant(), func(r *rows) { r.row("tenant " + args[0] + " updated") })
	})
	return cmd
}

func tenantDeleteCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a tenant: its users, ACLs and groups, and with --force its topics", Args: cobra.ExactArgs(1),
		Long: `Delete a tenant. From the first moment on it is served no more: its connections end. A
delete that breaks off leaves it in the state deleting; the same command goes on with it.`,
	}
	outputFlag(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "also if it has topics; they and their records are deleted")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.tenants.DeleteTenant, &adminv1.DeleteTenantRequest{Name: tenantName(args[0]), Force: force})
		if err != nil {
			return err
		}
		return printMessage(cmd, resp, func(r *rows) {
			r.row(fmt.Sprintf("tenant %s deleted, with %d topics", args[0], resp.GetTopics()))
		})
	})
	return cmd
}
