package kafkacompat

import (
	"context"
	"regexp"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ApiVersions: v0-v4
//
// No features are finalized. Without transaction.version, clients take version 1
// of the transaction protocol; without group.version, the classic group protocol.
//
// Version notes:
// * v3: flexible (not its header), client software name and version (KIP-511)
// * v4: nothing new for the fields we send
// * above: answered in v0 with UNSUPPORTED_VERSION and the table

// softwareNames is what Kafka takes as software name and version (ApiVersionsRequest.java).
var softwareNames = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?$`)

func handleAPIVersions(_ context.Context, c *conn, req *request, kreq *kmsg.ApiVersionsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.ApiVersionsResponse)
	if req.version >= 3 {
		if !softwareNames.MatchString(kreq.ClientSoftwareName) || !softwareNames.MatchString(kreq.ClientSoftwareVersion) {
			resp.ErrorCode = req.refuse(kerr.InvalidRequest)
			return resp
		}
		c.log.Debug("client says hello", "client_id", req.clientID, "software", kreq.ClientSoftwareName, "version", kreq.ClientSoftwareVersion)
	}
	resp.ApiKeys = c.s.advertised
	return resp
}

// apiVersionsUnknown answers an ApiVersions request of a version that is not served.
func (c *conn) apiVersionsUnknown(req *request) response {
	var resp kmsg.ApiVersionsResponse
	resp.Default()
	resp.ErrorCode = req.refuse(kerr.UnsupportedVersion)
	resp.ApiKeys = c.s.advertised
	return encode(req, &resp)
}
