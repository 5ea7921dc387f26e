package differential

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// producerIDsFrom is the first producer id that braid hands out.
const producerIDsFrom = int64(1) << 48

// Physical is what no client may see of a physical cluster.
type Physical struct {
	NodeID    int32
	Port      int32
	ClusterID string
	TopicIDs  [][16]byte
	// Texts must be in no field: names of physical topics, directories.
	Texts []string
}

// Leaks returns the fields of an answer that show something physical, and how many were
// looked at.
func (p Physical) Leaks(a Answer) (leaks []string, seen int) {
	if a.Response == nil {
		return nil, 0
	}
	node, port := strconv.Itoa(int(p.NodeID)), strconv.Itoa(int(p.Port))
	found := func(f Field, what string) {
		leaks = append(leaks, fmt.Sprintf("%s: %s shows %s: %q", a, f.Path, what, shorten(f.Value)))
	}
	walk(a.Response, func(f Field) {
		seen++
		for n := range strings.FieldsSeq(strings.Trim(f.Value, "[]")) {
			switch {
			case opaque(f.Name) == "node" && n == node:
				found(f, "a physical node id")
			case f.Name == "Port" && n == port:
				found(f, "a physical port")
			}
		}
		var producer int64
		if _, err := fmt.Sscan(f.Value, &producer); f.Name == "ProducerID" && err == nil && producer >= 0 && producer < producerIDsFrom {
			found(f, "a producer id that is not braid's")
		}
		for _, text := range p.texts() {
			if strings.Contains(f.Value, text) || strings.Contains(f.Value, fmt.Sprintf("%x", text)) {
				found(f, "something physical")
			}
		}
	})
	return leaks, seen
}

func (p Physical) texts() []string {
	all := append([]string{p.ClusterID, fmt.Sprintf("127.0.0.1:%d", p.Port)}, p.Texts...)
	for _, id := range p.TopicIDs {
		all = append(all, hex.EncodeToString(id[:]))
	}
	return all
}
