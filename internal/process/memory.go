package process

import (
	"cmp"

	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/memory"
)

// budgets are what a gateway's parts take memory from; nil ones have no bound.
type budgets struct{ requests, incoming, answers *memory.Budget }

// incomingShare is the part of the budget for requests that messages of the Connect API
// may take beside it until they are whole: a budget of its own, as clients that never send
// the rest must not use up that of the others.
const incomingShare = 4

// budgets divides the memory limit, and lowers the limits of the parts to their shares.
// What a part is limited to by itself, it stays limited to.
func (w *wiring) budgets() budgets {
	shares := memory.LimitsOf(w.cfg.MemoryLimit)
	w.cfg.Router = w.cfg.Router.Within(shares.Requests, shares.Answers)
	if w.cfg.Connections.ConnectionsMax == 0 {
		w.cfg.Connections.ConnectionsMax = shares.Connections
	}
	if w.cfg.Gateway.CallsMax == 0 {
		w.cfg.Gateway.CallsMax = shares.Calls
	}
	b := budgets{requests: memory.NewBudget(shares.Requests), incoming: memory.NewBudget(shares.Requests / incomingShare), answers: memory.NewBudget(shares.Answers)}
	w.cfg.Upstream.Answers = b.answers
	w.cfg.Groups.Room = groups.NewRoom(cmp.Or(w.cfg.GroupMemory, shares.Groups))
	return b
}

// gauges are the numbers of the budgets.
func (b budgets) gauges(cached func() int64) []gauge {
	return []gauge{
		{"braid.memory.requests.limit", "By", "What requests and frames of clients may take; 0 = no limit.", false, b.requests.Size},
		{"braid.memory.requests.used", "By", "Requests and frames of clients in memory.", false, b.requests.Used},
		{"braid.memory.requests.waiting", "{connection}", "Connections and streams that are not read from until there is room.", false, b.requests.Waiting},
		{"braid.memory.incoming.limit", "By", "What messages of the Connect API may take that are not whole yet; 0 = no limit.", false, b.incoming.Size},
		{"braid.memory.incoming.used", "By", "Messages of the Connect API in memory that are not whole yet.", false, b.incoming.Used},
		{"braid.memory.incoming.waiting", "{call}", "Calls that are not read from until there is room.", false, b.incoming.Waiting},
		{"braid.memory.answers.limit", "By", "What records read from brokers, and other large answers, may take; 0 = no limit.", false, b.answers.Size},
		{"braid.memory.answers.used", "By", "Records read from brokers and other large answers in memory, and room for those asked for.", false, b.answers.Used},
		{"braid.memory.answers.waiting", "{request}", "Reads from brokers and requests for large answers that wait for room.", false, b.answers.Waiting},
		{"braid.memory.cache.used", "By", "Records in the tail caches.", false, cached},
	}
}
