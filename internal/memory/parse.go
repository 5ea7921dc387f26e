package memory

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ParseLimit reads the text of a limit: "auto" is what Available says; "none", or an auto
// that nothing is known for, is 0; else it is a number of bytes, or one with B, KiB, MiB,
// GiB or TiB, as in GOMEMLIMIT.
func ParseLimit(text string, available func() int64) (int64, error) {
	switch text {
	case "none":
		return 0, nil
	case "auto":
		n := available()
		if n < LimitMin {
			n = 0 // what is left of so small a machine is not ours to divide
		}
		return n, nil
	}
	n, err := ParseSize(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w, auto, or none", err)
	case n < LimitMin:
		return 0, fmt.Errorf("%s is too little: want %d MiB or more, or none", text, LimitMin>>20)
	}
	return n, nil
}

// ParseSize reads a number of bytes, with or without a unit.
func ParseSize(text string) (int64, error) {
	number, unit := text, int64(1)
	for _, u := range []struct {
		suffix string
		shift  int
	}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"B", 0}} {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			number, unit = rest, 1<<u.shift
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is no size: want a number with MiB or GiB, such as 512MiB", text)
	}
	return n * unit, nil
}
