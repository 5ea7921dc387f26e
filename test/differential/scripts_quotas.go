package differential

import "github.com/twmb/franz-go/pkg/kmsg"

func quotasScript(s *Side) {
	alice, reader, nobody, none := "alice", "reader", "nobody", (*string)(nil)
	entity := func(kind string, name *string) []kmsg.AlterClientQuotasRequestEntryEntity {
		return []kmsg.AlterClientQuotasRequestEntryEntity{{Type: kind, Name: name}}
	}
	alter := func(e []kmsg.AlterClientQuotasRequestEntryEntity, ops ...kmsg.AlterClientQuotasRequestEntryOp) *kmsg.AlterClientQuotasRequest {
		return &kmsg.AlterClientQuotasRequest{Entries: []kmsg.AlterClientQuotasRequestEntry{{Entity: e, Ops: ops}}}
	}
	set := func(key string, value float64) kmsg.AlterClientQuotasRequestEntryOp {
		return kmsg.AlterClientQuotasRequestEntryOp{Key: key, Value: value}
	}
	remove := func(key string) kmsg.AlterClientQuotasRequestEntryOp {
		return kmsg.AlterClientQuotasRequestEntryOp{Key: key, Remove: true}
	}
	match := func(strict bool, components ...kmsg.DescribeClientQuotasRequestComponent) *kmsg.DescribeClientQuotasRequest {
		return &kmsg.DescribeClientQuotasRequest{Strict: strict, Components: components}
	}
	exact := func(kind, name string) kmsg.DescribeClientQuotasRequestComponent {
		return kmsg.DescribeClientQuotasRequestComponent{EntityType: kind, Match: &name}
	}
	s.each("no quotas", 0, func(int16) kmsg.Request { return match(false) })
	s.each("only check a quota", 0, func(int16) kmsg.Request {
		r := alter(entity("user", &alice), set("producer_byte_rate", 1e9))
		r.ValidateOnly = true
		return r
	})
	s.each("a key that is none", 0, func(int16) kmsg.Request { return alter(entity("user", &alice), set("bytes", 1)) })
	s.each("an entity that is none", 0, func(int16) kmsg.Request { return alter(entity("group", &alice), set("producer_byte_rate", 1)) })
	s.each("no entity", 0, func(int16) kmsg.Request { return alter(nil, set("producer_byte_rate", 1)) })
	s.each("a negative quota", 0, func(int16) kmsg.Request { return alter(entity("user", &alice), set("producer_byte_rate", -1)) })
	s.each("a key of another entity", 0, func(int16) kmsg.Request {
		return alter(entity("user", &alice), set("connection_creation_rate", 1))
	})
	s.each("an address that is none", 0, func(int16) kmsg.Request {
		return alter(entity("ip", &alice), set("connection_creation_rate", 1))
	})
	s.each("remove what is not there", 0, func(int16) kmsg.Request { return alter(entity("user", &nobody), remove("producer_byte_rate")) })

	s.ask("a user", 0, alter(entity("user", &alice), set("producer_byte_rate", 1e9), set("consumer_byte_rate", 2e9)))
	s.ask("the default client id", 0, alter(entity("client-id", none), set("request_percentage", 5000)))
	s.ask("a user with a client id", 1, alter([]kmsg.AlterClientQuotasRequestEntryEntity{{Type: "user", Name: &alice}, {Type: "client-id", Name: &reader}}, set("consumer_byte_rate", 3e9)))
	s.until("the last quota is there", 1, match(false, exact("client-id", reader)), func(response kmsg.Response) bool {
		return len(response.(*kmsg.DescribeClientQuotasResponse).Entries) == 1
	})
	s.each("quotas of a user", 0, func(int16) kmsg.Request { return match(false, exact("user", alice)) })
	s.each("quotas of a user alone", 0, func(int16) kmsg.Request { return match(true, exact("user", alice)) })
	s.each("quotas of a default", 0, func(int16) kmsg.Request {
		return match(false, kmsg.DescribeClientQuotasRequestComponent{EntityType: "client-id", MatchType: 1})
	})
	s.each("quotas of nobody", 0, func(int16) kmsg.Request { return match(false, exact("user", nobody)) })
	s.each("quotas by a kind that is none", 0, func(int16) kmsg.Request { return match(false, exact("group", alice)) })
	s.each("quotas by a kind twice", 0, func(int16) kmsg.Request { return match(false, exact("user", alice), exact("user", nobody)) })
	s.each("quotas by a match that is none", 0, func(int16) kmsg.Request {
		return match(false, kmsg.DescribeClientQuotasRequestComponent{EntityType: "user", MatchType: 9})
	})

	s.ask("a user less", 0, alter(entity("user", &alice), remove("producer_byte_rate"), remove("consumer_byte_rate")))
	s.ask("a default less", 0, alter(entity("client-id", none), remove("request_percentage")))
	s.ask("a user with a client id less", 0, alter([]kmsg.AlterClientQuotasRequestEntryEntity{{Type: "user", Name: &alice}, {Type: "client-id", Name: &reader}}, remove("consumer_byte_rate")))
	s.until("all are gone", 0, match(false), func(response kmsg.Response) bool {
		return len(response.(*kmsg.DescribeClientQuotasResponse).Entries) == 0
	})
}
