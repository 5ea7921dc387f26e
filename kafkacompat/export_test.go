package kafkacompat

import "github.com/twmb/franz-go/pkg/kmsg"

// BytesInUse returns the bytes of requests in memory.
func (s *Server) BytesInUse() int64 { return s.budget.Used() + s.small.Used() }

// AnswersInUse returns the bytes of answers in memory, and of what Fetch requests name.
func (s *Server) AnswersInUse() int64 { return s.answers.budget.Used() + s.answers.fetches.Used() }

// Guarded are the keys of the APIs that are served and ask for rights.
func Guarded() (keys []int16) {
	for key := range served() {
		if operations[kmsg.Key(key)] != "–" {
			keys = append(keys, key)
		}
	}
	return keys
}

// ReadOTLP is what is read of a push.
var ReadOTLP = readOTLP

// Working returns how many connections have a request at work.
func (s *Server) Working() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.answering.Load() != 0 {
			n++
		}
	}
	return n
}
