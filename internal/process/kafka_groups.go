package process

import (
	"context"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

// AlterGroupConfig implements kafkacompat.Admin.
func (a *kafkaAdmin) AlterGroupConfig(ctx context.Context, change *federation.GroupConfigChange, validateOnly bool) (federation.MapVersion, error) {
	req := &adminv1.AlterGroupConfigRequest{Parent: a.parent, Group: change.Group, Set: change.Set, Remove: change.Remove, ValidateOnly: validateOnly}
	var version federation.MapVersion
	err := retry(ctx, func(ctx context.Context) error {
		resp, err := a.groups.AlterGroupConfig(ctx, req)
		version = federation.MapVersion(resp.GetMapVersion())
		return err
	})
	return version, err
}
