package kafkacompat

import (
	"context"
	"regexp"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ApiVersions: v0-v4
//
// Of the features, only group.version is finalized: it offers the newer group protocol
// (KIP-848). Without transaction.version, clients take version 1 of the transaction
// protocol.
//
// Version notes:
// * v3: flexible (not its header), client software name and version (KIP-511)
// * v4: supported features may begin at version 0 (KAFKA-17492); before, such a feature is left out
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
		c.software = kreq.ClientSoftwareName
		c.log.Debug("client says hello", "client_id", req.clientID, "software", kreq.ClientSoftwareName, "version", kreq.ClientSoftwareVersion)
	}
	resp.ApiKeys = c.s.advertised
	if req.version >= 3 {
		addFeatures(req.version, resp)
	}
	return resp
}

func addFeatures(version int16, resp *kmsg.ApiVersionsResponse) {
	const name, level = "group.version", 1
	if version >= 4 {
		f := kmsg.NewApiVersionsResponseSupportedFeature()
		f.Name, f.MinVersion, f.MaxVersion = name, 0, level
		resp.SupportedFeatures = append(resp.SupportedFeatures, f)
	}
	f := kmsg.NewApiVersionsResponseFinalizedFeature()
	f.Name, f.MinVersionLevel, f.MaxVersionLevel = name, level, level
	resp.FinalizedFeatures = append(resp.FinalizedFeatures, f)
	resp.FinalizedFeaturesEpoch = 0 // they never change while a gateway runs
}

// apiVersionsUnknown answers an ApiVersions request of a version that is not served.
func (c *conn) apiVersionsUnknown(req *request) response {
	var resp kmsg.ApiVersionsResponse
	resp.Default()
	resp.ErrorCode = req.refuse(kerr.UnsupportedVersion)
	resp.ApiKeys = c.s.advertised
	return encode(req, &resp)
}
