package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

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
		Example: "  braid tenant create acme\n  braid topic create orders --logical-cluster acme\n  braid credential create alice --logical-cluster acme   # who logs in as acme/alice",
	}
	outputFlag(cmd)
	cmd.Flags().StringVar(&description, "description", "", descriptionHelp)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.tenants.CreateTenant, &adminv1.CreateTenantRequest{TenantId: args[0], Tenant: &adminv1.Tenant{Description: description}})
		if err != nil {
			return err
		}
		return printMessage(cmd, resp.GetTenant(), func(r *rows) { r.row("tenant " + args[0] + " created") })
	})
	return cmd
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
	r.row("Topics:", t.GetTopics())
	r.row("Partitions:", t.GetPartitions())
	r.row("Credentials:", t.GetCredentials())
	r.row("ACLs:", t.GetAcls())
}

func tenantUpdateCommand() *cobra.Command {
	var description string
	cmd := &cobra.Command{Use: "update NAME", Short: "Change the description of a tenant", Args: cobra.ExactArgs(1)}
	outputFlag(cmd)
	cmd.Flags().StringVar(&description, "description", "", descriptionHelp)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		if !cmd.Flags().Changed("description") {
			return usagef("nothing is to be changed; set --description")
		}
		resp, err := call(cmd.Context(), a, a.tenants.UpdateTenant, &adminv1.UpdateTenantRequest{Tenant: &adminv1.Tenant{Name: tenantName(args[0]), Description: description}})
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
