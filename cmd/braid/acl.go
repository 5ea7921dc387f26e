package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

func aclCommand() *cobra.Command {
	return parent("acl", "Access control lists: who may do what; gateways ask them with --authorizer acl",
		aclAddCommand(), aclListCommand(), aclDeleteCommand())
}

// aclFlags are the flags that say what an ACL, or a filter, is about.
type aclFlags struct {
	topic, group, transactionalID, user, host string
	clusterWide, prefixed                     bool
	operations                                []string
	logical                                   *string
}

func newACLFlags(cmd *cobra.Command) *aclFlags {
	a := &aclFlags{logical: logicalFlag(cmd)}
	f := cmd.Flags()
	f.StringVar(&a.topic, "topic", "", "a topic; * is all")
	f.StringVar(&a.group, "group", "", "a consumer group; * is all")
	f.StringVar(&a.transactionalID, "transactional-id", "", "a transactional id; * is all")
	f.StringVar(&a.user, "user", "", "a user, for delegation tokens; * is all")
	f.BoolVar(&a.clusterWide, "cluster-wide", false, "the cluster itself")
	f.BoolVar(&a.prefixed, "prefixed", false, "the name is the beginning of names")
	f.StringVar(&a.host, "host", "", "only from this IP address")
	f.StringSliceVar(&a.operations, "operation", nil, "operations, such as read, write, create, describe, alter-configs, idempotent-write or all")
	return a
}

// resource returns the one resource that the flags name.
func (a *aclFlags) resource() (kind adminv1.Acl_ResourceType, name string, err error) {
	n := 0
	for _, r := range []struct {
		kind adminv1.Acl_ResourceType
		name string
	}{
		{adminv1.Acl_RESOURCE_TYPE_TOPIC, a.topic},
		{adminv1.Acl_RESOURCE_TYPE_GROUP, a.group},
		{adminv1.Acl_RESOURCE_TYPE_TRANSACTIONAL_ID, a.transactionalID},
		{adminv1.Acl_RESOURCE_TYPE_USER, a.user},
	} {
		if r.name != "" {
			kind, name = r.kind, r.name
			n++
		}
	}
	if a.clusterWide {
		kind, name = adminv1.Acl_RESOURCE_TYPE_CLUSTER, federation.ACLClusterName
		n++
	}
	if n > 1 {
		return 0, "", usagef("give one of --topic, --group, --transactional-id, --user and --cluster-wide")
	}
	return kind, name, nil
}

func (a *aclFlags) parseOperations() ([]adminv1.Acl_Operation, error) {
	var out []adminv1.Acl_Operation
	for _, text := range a.operations {
		name := "OPERATION_" + strings.ToUpper(strings.ReplaceAll(text, "-", "_"))
		op, ok := adminv1.Acl_Operation_value[name]
		if !ok || op <= int32(adminv1.Acl_OPERATION_ANY) {
			return nil, usagef("--operation %q: want all, read, write, create, delete, alter, describe, cluster-action, describe-configs, alter-configs or idempotent-write", text)
		}
		out = append(out, adminv1.Acl_Operation(op))
	}
	return out, nil
}

func aclAddCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add PRINCIPAL --operation OPERATION[,OPERATION] --topic NAME",
		Short: "Allow, or with --deny deny, a principal something",
		Example: "  braid acl add User:alice --operation write,describe --topic orders\n" +
			"  braid acl add User:billing --operation read --topic orders. --prefixed\n" +
			"  braid acl add User:billing --operation read --group billing\n" +
			"  braid acl add 'User:*' --operation all --topic secret --deny",
		Args: cobra.ExactArgs(1),
	}
	a := newACLFlags(cmd)
	deny := cmd.Flags().Bool("deny", false, "deny it, whatever is allowed elsewhere")
	_ = cmd.MarkFlagRequired("operation")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, c *api, args []string) error {
		kind, name, err := a.resource()
		if err != nil {
			return err
		}
		if name == "" {
			return usagef("give one of --topic, --group, --transactional-id, --user and --cluster-wide")
		}
		operations, err := a.parseOperations()
		if err != nil {
			return err
		}
		req := &adminv1.CreateAclsRequest{Parent: logicalName(*a.logical)}
		for _, op := range operations {
			acl := &adminv1.Acl{
				ResourceType: kind, PatternType: adminv1.Acl_PATTERN_TYPE_LITERAL, ResourceName: name, Principal: args[0], Host: a.host,
				Operation: op, Permission: adminv1.Acl_PERMISSION_ALLOW,
			}
			if a.prefixed {
				acl.PatternType = adminv1.Acl_PATTERN_TYPE_PREFIXED
			}
			if *deny {
				acl.Permission = adminv1.Acl_PERMISSION_DENY
			}
			req.Acls = append(req.Acls, acl)
		}
		if _, err := call(cmd.Context(), c, c.acls.CreateAcls, req); err != nil {
			return err
		}
		cmd.PrintErrf("%d ACLs added\n", len(req.GetAcls()))
		return nil
	})
	return cmd
}

// filters makes one filter for each operation, or one for all.
func (a *aclFlags) filters(principal string) ([]*adminv1.AclFilter, error) {
	kind, name, err := a.resource()
	if err != nil {
		return nil, err
	}
	operations, err := a.parseOperations()
	if err != nil {
		return nil, err
	}
	if len(operations) == 0 {
		operations = []adminv1.Acl_Operation{adminv1.Acl_OPERATION_ANY}
	}
	var out []*adminv1.AclFilter
	for _, op := range operations {
		f := &adminv1.AclFilter{ResourceType: kind, Operation: op}
		for _, text := range []struct {
			to   **string
			text string
		}{{&f.ResourceName, name}, {&f.Principal, principal}, {&f.Host, a.host}} {
			if text.text != "" {
				*text.to = &text.text
			}
		}
		if a.prefixed {
			f.PatternType = adminv1.Acl_PATTERN_TYPE_PREFIXED
		}
		out = append(out, f)
	}
	return out, nil
}

func aclListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [PRINCIPAL]", Short: "List the ACLs, or those of a principal, resource or operation",
		Example: "  braid acl list\n  braid acl list --topic orders --matching",
		Args:    cobra.MaximumNArgs(1),
	}
	outputFlag(cmd)
	a := newACLFlags(cmd)
	matching := cmd.Flags().Bool("matching", false, "also those of prefixes and of * that apply to the name")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, c *api, args []string) error {
		filters, err := a.filters(strings.Join(args, ""))
		if err != nil {
			return err
		}
		all := &adminv1.ListAclsResponse{}
		for _, f := range filters {
			if *matching {
				f.PatternType = adminv1.Acl_PATTERN_TYPE_MATCH
			}
			err := pages(func(token string) (string, error) {
				resp, err := call(cmd.Context(), c, c.acls.ListAcls, &adminv1.ListAclsRequest{Parent: logicalName(*a.logical), Filter: f, PageToken: token})
				all.Acls = append(all.Acls, resp.GetAcls()...)
				return resp.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
		}
		return printMessage(cmd, all, func(r *rows) { aclRows(r, all.GetAcls()) })
	})
	return cmd
}

func aclRows(r *rows, acls []*adminv1.Acl) {
	r.row("RESOURCE", "PATTERN", "NAME", "PRINCIPAL", "HOST", "OPERATION", "PERMISSION")
	for _, a := range acls {
		r.row(strings.TrimPrefix(a.GetResourceType().String(), "RESOURCE_TYPE_"), strings.TrimPrefix(a.GetPatternType().String(), "PATTERN_TYPE_"), a.GetResourceName(),
			a.GetPrincipal(), a.GetHost(), strings.TrimPrefix(a.GetOperation().String(), "OPERATION_"), strings.TrimPrefix(a.GetPermission().String(), "PERMISSION_"))
	}
}

func aclDeleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete [PRINCIPAL]", Short: "Delete the ACLs of a principal, resource or operation",
		Example: "  braid acl delete User:alice\n  braid acl delete --topic orders --operation write\n  braid acl delete User:alice --topic orders --dry-run",
		Args:    cobra.MaximumNArgs(1),
	}
	outputFlag(cmd)
	a := newACLFlags(cmd)
	dryRun := cmd.Flags().Bool("dry-run", false, "show what would be deleted")
	all := cmd.Flags().Bool("all", false, "delete every ACL, if nothing else is given")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, c *api, args []string) error {
		filters, err := a.filters(strings.Join(args, ""))
		if err != nil {
			return err
		}
		if f := filters[0]; len(args) == 0 && f.GetResourceType() == 0 && a.host == "" && len(a.operations) == 0 && !a.prefixed && !*all {
			return usagef("say which ACLs to delete, or give --all")
		}
		resp, err := call(cmd.Context(), c, c.acls.DeleteAcls, &adminv1.DeleteAclsRequest{Parent: logicalName(*a.logical), Filters: filters, ValidateOnly: *dryRun})
		if err != nil {
			return err
		}
		return printMessage(cmd, resp, func(r *rows) {
			var acls []*adminv1.Acl
			for _, d := range resp.GetDeleted() {
				acls = append(acls, d.GetAcls()...)
			}
			aclRows(r, acls)
		})
	})
	return cmd
}
