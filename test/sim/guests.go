//go:build synctests

package sim

import (
	"context"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// guestNames are the tenants that operators make and delete again and again, one each.
var guestNames = map[string]string{"ops0": "guest0", "ops1": "guest1"}

// guest makes a tenant with the topic that all have, writes to it, and deletes both. The
// next one has its name and sees nothing of it, and nobody else notices.
func (o *operator) guest(ctx, producing context.Context, faulty func()) {
	l := o.logical(guestNames[o.name])
	o.history.note("%s: the tenant %s comes", o.name, l.tenant)
	if err := o.createTenant(ctx, l.tenant); err != nil {
		if ctx.Err() == nil {
			o.history.problem("the tenant %s is refused: %v", l.tenant, err)
		}
		return
	}
	o.hasNothing(ctx, l)
	if o.createTopic(ctx, l, topic, 2, nil) {
		l.beNew(producing)
		l.writeOnce(producing)
		faulty()
	}
	for attempt := 0; !o.deleteTenant(ctx, l.tenant); attempt++ {
		if ctx.Err() != nil {
			o.history.problem("the tenant %s could not be deleted", l.tenant)
			return
		}
		wait(ctx, 200*time.Millisecond)
	}
	o.history.note("%s: the tenant %s is gone", o.name, l.tenant)
	o.history.count("guests", 1)
}

// hasNothing checks that a new tenant has no topics.
func (o *operator) hasNothing(ctx context.Context, l *logical) {
	err := o.call(ctx, func(ctx context.Context) error {
		r, err := o.topics().ListTopics(ctx, &adminv1.ListTopicsRequest{Parent: l.parent()})
		for _, t := range r.GetTopics() {
			l.history.problem("the tenant is new and has %s", t.GetName())
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		l.history.problem("the topics of a new tenant cannot be listed: %v", err)
	}
}

// deleteTenant reports whether a tenant is gone. Another operation on its topic may be in
// the way.
func (o *operator) deleteTenant(ctx context.Context, name string) (gone bool) {
	err := o.call(ctx, func(ctx context.Context) error {
		_, err := o.tenantService().DeleteTenant(ctx, &adminv1.DeleteTenantRequest{Name: "tenants/" + name, Force: true})
		return err
	})
	switch connect.CodeOf(err) {
	case connect.CodeAborted, connect.CodeFailedPrecondition, connect.CodeResourceExhausted:
		o.history.note("%s: deleting the tenant %s is refused: %v", o.name, name, err)
		return false
	case connect.CodeNotFound: // an answer was lost
		return true
	default:
		if err != nil && ctx.Err() == nil {
			o.history.problem("deleting the tenant %s fails: %v", name, err)
		}
		return err == nil
	}
}

// beNew checks that a new topic has no records. Faults can keep it from being seen.
func (l *logical) beNew(ctx context.Context) {
	c := l.rawClient(l.client("new", 0), l.gateways[0])
	defer c.client.Close()
	for p := range int32(2) {
		if end, ok := c.listOffset(ctx, p, -1); ok {
			l.history.count("new topics seen", 1)
			if end != 0 {
				l.history.problem("partition %d of a new topic ends at offset %d", p, end)
			}
		}
	}
}

// writeOnce writes a record to each partition, if nothing keeps it from that.
func (l *logical) writeOnce(ctx context.Context) {
	name := l.client("batch", 0)
	client := l.connectClient(name, 0)
	defer client.close()
	c := l.counters(name)
	for p := range int32(2) {
		v := c.next()
		request := &braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{
			BatchSeq: uint64(p + 1), Topic: topic, Partition: &p, Records: []*braidv1.Record{{Key: []byte(v.Key), Value: []byte(v.String())}},
		}}
		if _, _, err := sendBatch(ctx, client, request); err == nil {
			l.history.count("records of guests", 1)
		}
	}
}
