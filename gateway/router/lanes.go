package router

import "time"

// loadedFor is how long a lane counts as loaded after appends had to wait.
const loadedFor = time.Second

// loaded reports whether appends of the lane wait for brokers to answer those before
// them: what shares the lane waits with them.
func (l *lane) loaded() bool { return time.Since(time.Unix(0, l.full.Load())) < loadedFor }

// nextLane returns the lane of a new session: the next one in turn, or one more if all
// are loaded. Sessions stay on their lanes, which keeps their order; clients come and go,
// so that load spreads all the same.
func (r *Router) nextLane() *lane {
	used := r.lanesUsed.Load()
	if int(used) < len(r.lanes) && r.allLoaded(used) && r.lanesUsed.CompareAndSwap(used, used+1) {
		return r.lanes[used]
	}
	return r.lanes[(r.turn.Add(1)-1)%uint32(used)]
}

func (r *Router) allLoaded(used int32) bool {
	for _, l := range r.lanes[:used] {
		if !l.loaded() {
			return false
		}
	}
	return true
}
