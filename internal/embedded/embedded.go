// Package embedded runs a whole federation in one operating system process:
// Redis, Kafka clusters, controllers, gateways and a name service. It is what
// `braid dev` and the tests run on, with nothing installed; real Redis and real
// clusters can replace the embedded ones, so one suite of tests runs on both.
package embedded

import (
	"fmt"
	"net"
	"strconv"
)

func portOf(address string) (int, error) {
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		return 0, fmt.Errorf("address %q: %w", address, err)
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return 0, fmt.Errorf("address %q: %w", address, err)
	}
	return port, nil
}
