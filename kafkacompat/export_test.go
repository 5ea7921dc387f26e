package kafkacompat

// BytesInUse returns the bytes of requests in memory.
func (s *Server) BytesInUse() int64 { return s.budget.inUse() }
