package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// InitProducerID: v0-v5
//
// Version notes:
// * v2: flexible
// * v3: producer id and epoch, to raise the epoch (KIP-360)
// * v4: PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH (KIP-588)

// errNoTransactions refuses everything transactional. Its code is
// TRANSACTIONAL_ID_AUTHORIZATION_FAILED: all SDKs take it as final, for
// FindCoordinator, InitProducerId and Produce alike (Java's TransactionManager and
// librdkafka's rdkafka_txnmgr.c go to their fatal state, kafkajs throws), where
// any other code that fits makes one of them try again for ever. Brokers without
// the grant answer the same, so applications know it.
var errNoTransactions = federation.Errorf(federation.NotAuthorized,
	"braid does not offer transactions: unset transactional.id (the producer stays idempotent without it)")

func handleInitProducerID(ctx context.Context, c *conn, req *request, kreq *kmsg.InitProducerIDRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	switch {
	case kreq.TransactionalID != nil:
		resp.ErrorCode = req.refuse(kerr.TransactionalIDAuthorizationFailed)
		return resp
	case (kreq.ProducerID == -1) != (kreq.ProducerEpoch == -1):
		resp.ErrorCode = req.refuse(kerr.InvalidRequest)
		return resp
	case c.s.mapOrNil() == nil:
		resp.ErrorCode = req.refuse(kerr.CoordinatorNotAvailable)
		return resp
	case !req.may.MayAny(acl.Write, acl.Topic):
		if resp.ErrorCode = req.mayCluster(ctx, acl.IdempotentWrite); resp.ErrorCode != 0 {
			return resp
		}
	}
	id, epoch, err := c.route().InitProducer(ctx, kreq.ProducerID, kreq.ProducerEpoch)
	if err != nil {
		resp.ErrorCode = req.fail(err)
		if resp.ErrorCode == kerr.ProducerFenced.Code && req.version < 4 {
			resp.ErrorCode = kerr.InvalidProducerEpoch.Code
		}
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = id, epoch
	return resp
}
