package federation

// PartitionForKey returns the partition of a record with a key, empty keys
// included, as Kafka's BuiltInPartitioner.partitionForKey does; n must be
// positive. The partition of a record without a key is the producer's choice.
func PartitionForKey(key []byte, n int32) LogicalPartition {
	return LogicalPartition(Murmur2(key) & 0x7fffffff % n)
}

// Murmur2 is the hash of Kafka's org.apache.kafka.common.utils.Utils.murmur2:
// 32 bits, seed 0x9747b28c.
func Murmur2(data []byte) int32 {
	const m = uint32(0x5bd1e995)
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> 24
		k *= m
		h *= m
		h ^= k
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(data[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return int32(h)
}
