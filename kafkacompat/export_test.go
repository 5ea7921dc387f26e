package kafkacompat

// BytesInUse returns the bytes of requests in memory.
func (s *Server) BytesInUse() int64 { return s.budget.Used() }

// Served are the keys of the APIs that are served.
func Served() (keys []int16) {
	for key := range served() {
		keys = append(keys, key)
	}
	return keys
}

// ReadOTLP is what is read of a push.
var ReadOTLP = readOTLP
