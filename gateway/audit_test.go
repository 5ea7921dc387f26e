package gateway

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/acl"
)

// The audit log says what was changed, and no secret.
func TestWhatTheAuditLogSaysOfAChange(t *testing.T) {
	name := func(procedure string, msg proto.Message) string {
		rights, changes := adminRights("/braid.admin.v1."+procedure, msg)
		require.True(t, changes)
		return audited(rights[len(rights)-1], msg)
	}
	require.JSONEq(t, `{"user":"alice"}`, name("CredentialService/CreateCredential", &adminv1.CreateCredentialRequest{User: "alice", Password: "hunter2"}))
	require.JSONEq(t, `{"user":"alice","upserts":[{"mechanism":"SCRAM-SHA-256","iterations":4096}]}`, name("CredentialService/AlterCredentials", &adminv1.AlterCredentialsRequest{
		User: "alice", Upserts: []*adminv1.ScramVerifier{{Mechanism: "SCRAM-SHA-256", Iterations: 4096, Salt: []byte("salt"), StoredKey: []byte("stored"), ServerKey: []byte("server")}},
	}))
	require.JSONEq(t, `{"acls":[{"resourceName":"orders","principal":"User:alice"}]}`, name("AclService/CreateAcls", &adminv1.CreateAclsRequest{Acls: []*adminv1.Acl{{ResourceName: "orders", Principal: "User:alice"}}}))
	require.JSONEq(t, `{"changes":[{"entity":{"user":"alice"},"set":{"producer_byte_rate":1000}}]}`, name("QuotaService/AlterQuotas", &adminv1.AlterQuotasRequest{
		Changes: []*adminv1.QuotaChange{{Entity: &adminv1.QuotaEntity{User: new("alice")}, Set: map[string]float64{"producer_byte_rate": 1000}}},
	}))
	require.JSONEq(t, `{"name":"clusters/east"}`, name("ClusterService/FailoverCluster", &adminv1.FailoverClusterRequest{Name: "clusters/east", RequestId: "r1"}))
	require.Equal(t, "orders", name("TopicService/DeleteTopic", &adminv1.DeleteTopicRequest{Name: "logicalClusters/default/topics/orders"}))
	long := name("ClusterService/FailoverCluster", &adminv1.FailoverClusterRequest{Name: strings.Repeat("ä", 5000)})
	require.Less(t, len(long), auditBytesMax+10)
	require.Equal(t, "x", audited(right{acl.Read, acl.Topic, "x"}, nil))
}

// No call that only asks what would be done is in the audit log as a change, whichever it is.
func TestValidationIsNoChange(t *testing.T) {
	seen := 0
	services := adminv1.File_braid_admin_v1_admin_proto.Package()
	protoregistry.GlobalFiles.RangeFilesByPackage(services, func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				field := method.Input().Fields().ByName("validate_only")
				if field == nil {
					continue
				}
				kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
				require.NoError(t, err)
				msg := kind.New()
				procedure := "/" + string(service.FullName()) + "/" + string(method.Name())
				rights, changes := adminRights(procedure, msg.Interface())
				require.True(t, changes, "%s", procedure)
				msg.Set(field, protoreflect.ValueOfBool(true))
				asked, changes := adminRights(procedure, msg.Interface())
				require.False(t, changes, "%s", procedure)
				require.Equal(t, rights, asked, "%s", procedure)
				seen++
			}
		}
		return true
	})
	require.GreaterOrEqual(t, seen, 13)
}
