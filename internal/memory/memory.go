// Package memory keeps what a process holds for its clients within a limit. Each
// purpose has a Budget, a share of the limit: who is about to hold much takes it from
// there first, and waits while there is none. So clients that send or ask for more
// than the process can hold are slowed down, each in its turn, and none is refused.
//
// What is needed to finish what is under way must not wait: a request that is in
// memory waits for no second share of its own budget while it holds the first, and
// small answers of brokers are not counted at all.
package memory

import (
	"runtime/debug"
)

// A Limits says how much of a process's memory goes to which purpose.
type Limits struct {
	// Requests bounds the requests and frames of clients that are in memory: Kafka
	// requests from their first byte on until they are answered (Produce: until all
	// batches are decided), frames of produce streams until they are decided.
	Requests int64
	// Answers bounds the records that were read from brokers: answers that are being
	// written to clients, reads ahead, and the tail caches; and other large answers to
	// Kafka clients, from before they are made until they are written.
	Answers int64
	// Groups bounds what members of groups have brought: it stays for their sessions.
	Groups int64
	// Connections bounds the connections of clients that are open, idle ones too; 0 = no bound.
	Connections int
	// Calls bounds the calls and streams of the Connect API that are open; 0 = no bound.
	Calls int
}

// LimitMin is the least limit: with less, what a gateway needs for itself leaves
// clients too little.
const LimitMin = 64 << 20

// outsideMax is what a process takes that the Go runtime knows nothing of: mostly the
// pages of the program itself. It is left out of what the runtime may use.
const outsideMax = 40 << 20

// shareOf is the part of the limit that each purpose has. Two of five are for what
// clients can make the process hold; the rest is for what it needs for itself (maps,
// connections, groups), for pools, and for the garbage between two collections.
const shareOf = 5

// groupsShareOf is the part of the limit that members of groups have, of that rest.
const groupsShareOf = 10

// What connections and calls take by themselves is of the rest: a quarter of the limit at
// most for each of both, if they are as large as they get with TLS, and for calls with their
// goroutines, buffers and what the library keeps of each.
const (
	restShareOf     = 4
	connectionBytes = 32 << 10
	callBytes       = 64 << 10
	countMax        = 20_000 // of each: more are asked for on purpose
)

// LimitsOf divides a limit; zero stands for no limit, and gives none.
func LimitsOf(limit int64) Limits {
	l := Limits{Requests: limit / shareOf, Answers: limit / shareOf, Groups: limit / groupsShareOf}
	if limit > 0 {
		l.Connections = int(min(countMax, limit/restShareOf/connectionBytes))
		l.Calls = int(min(countMax, limit/restShareOf/callBytes))
	}
	return l
}

// overshootMax is how far the runtime can come above what it was told: while many processors
// allocate, and the machine has no time for it to collect; and by the buffer of one large
// message, which doubles as it comes (8 MiB become 16, beside the 8). It is a sixth of small
// limits.
const overshootMax = 24 << 20

// SetRuntime has the Go runtime collect garbage as often as it takes to stay within
// the limit, and returns what it set. Idle slabs get a sixteenth of it at most.
func SetRuntime(limit int64) int64 {
	KeepSlabs(min(slabIdleDefault, limit/16))
	n := limit - min(limit*3/10, outsideMax) - min(limit/6, overshootMax)
	debug.SetMemoryLimit(n)
	return n
}
