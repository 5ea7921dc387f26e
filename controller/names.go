package controller

import (
	"encoding/base64"
	"hash/fnv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// The collections of resource names.
const (
	collectionLogical    = "logicalClusters/"
	collectionTopics     = "/topics/"
	collectionPhysical   = "physicalClusters/"
	collectionGateways   = "gateways/"
	collectionOperations = "operations/"
)

// parentName is the logical cluster of a tenant; the empty one is the deployment's own.
func (c *Controller) parentName(tenant string) string {
	if tenant == "" {
		tenant = c.cfg.LogicalCluster
	}
	return collectionLogical + tenant
}

func (c *Controller) topicName(t federation.TopicName) string {
	tenant, plain := t.Split()
	return c.parentName(tenant) + collectionTopics + string(plain)
}

// parseParent reads logicalClusters/{lc}, and returns the tenant that it is; empty for the
// deployment's own logical cluster, which the empty string stands for.
func (t *term) parseParent(parent string) (tenant string, err error) {
	if parent == "" || parent == t.parentName("") {
		return "", nil
	}
	name, ok := strings.CutPrefix(parent, collectionLogical)
	if !ok {
		return "", federation.Errorf(federation.InvalidArgument, "parent %q: want logicalClusters/NAME", parent)
	}
	switch known := t.current().Tenants[name]; {
	case known == nil:
		return "", federation.Errorf(federation.InvalidArgument, "logical cluster %q is not known here; this is %q, and it has no tenant of that name", name, t.cfg.LogicalCluster)
	case known.Deleting:
		return "", federation.Errorf(federation.InvalidArgument, "logical cluster %q is being deleted; `braid tenant delete %s` goes on with that", name, name)
	}
	return name, nil
}

// parseTopic reads logicalClusters/{lc}/topics/{topic}; the name is qualified.
func (t *term) parseTopic(name string) (federation.TopicName, error) {
	parent, id, ok := strings.Cut(name, collectionTopics)
	if !ok || parent == "" { // else who serves one tenant could not see whose a name is
		return "", federation.Errorf(federation.InvalidArgument, "topic name %q: want logicalClusters/%s/topics/TOPIC", name, t.cfg.LogicalCluster)
	}
	tenant, err := t.parseParent(parent)
	if err != nil {
		return "", err
	}
	return federation.Qualify(tenant, federation.TopicName(id)), planner.CheckTopicName(federation.TopicName(id))
}

// parseCluster reads physicalClusters/{pc}.
func parseCluster(name string) (federation.ClusterName, error) {
	id, ok := strings.CutPrefix(name, collectionPhysical)
	if !ok {
		return "", federation.Errorf(federation.InvalidArgument, "cluster name %q: want physicalClusters/NAME", name)
	}
	return federation.ClusterName(id), planner.CheckClusterName(federation.ClusterName(id))
}

// page returns the part of sorted names that a List call asks for, and the token
// of the next one. The token is the last name of the page.
func page[T any](all []T, name func(T) string, size int32, token string) ([]T, string, error) {
	const usual, most = 100, 1000
	if size < 0 {
		return nil, "", federation.Errorf(federation.InvalidArgument, "page size %d is negative", size)
	}
	if size == 0 {
		size = usual
	}
	size = min(size, most)
	start := 0
	if token != "" {
		last, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			return nil, "", federation.Errorf(federation.InvalidArgument, "page token %q is not one of ours", token)
		}
		for start < len(all) && name(all[start]) <= string(last) {
			start++
		}
	}
	end := min(len(all), start+int(size))
	next := ""
	if end < len(all) {
		next = base64.RawURLEncoding.EncodeToString([]byte(name(all[end-1])))
	}
	return all[start:end], next, nil
}

// etag changes whenever the entries do.
func etag(entries ...*controlv1.MapEntry) string {
	h := fnv.New64a()
	for _, e := range entries {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
		if err == nil {
			_, _ = h.Write(b)
		}
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func topicEtag(t *federation.Topic) string     { return etag(wire.TopicEntry(t)) }
func clusterEtag(c *federation.Cluster) string { return etag(wire.ClusterEntry(c)) }

func checkEtag(what, given, have string) error {
	if given != "" && given != have {
		return federation.Errorf(federation.Conflict, "%s was changed since it was read (etag %q, now %q); read it again", what, given, have)
	}
	return nil
}
