package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// snapshotInterval is how often an embedded Redis with a data directory saves
// its data, besides at its end.
const snapshotInterval = 5 * time.Second

// A Listen opens a listener, like net.Listen.
type Listen func(network, address string) (net.Listener, error)

// Redis is an embedded Redis.
type Redis struct {
	// Mini is the server, for faults and for a look into its data.
	Mini *miniredis.Miniredis

	file     string // where data is kept; empty = not at all
	listener net.Listener
	tasks    sync.WaitGroup
	stop     chan struct{}
}

// StartRedis starts an embedded Redis on a free port. With a directory, its data
// is read from there, and saved there every few seconds and at Close: a crash
// loses what was written since.
func StartRedis(listen Listen, dir string) (*Redis, error) {
	r := &Redis{Mini: miniredis.NewMiniRedis(), stop: make(chan struct{})}
	if dir != "" {
		r.file = filepath.Join(dir, "redis.json")
		if err := r.load(); err != nil {
			return nil, err
		}
	}
	// Time to live runs by the clock, as in Redis, and not by hand.
	r.Mini.ClockTTL(true)
	// The first Dial starts the server without a listener of its own.
	first, err := r.Mini.Dial()
	if err != nil {
		return nil, fmt.Errorf("embedded redis: %w", err)
	}
	_ = first.Close()
	if r.listener, err = listen("tcp", "127.0.0.1:0"); err != nil {
		r.Mini.Close()
		return nil, fmt.Errorf("embedded redis: %w", err)
	}
	r.tasks.Go(r.accept)
	if r.file != "" {
		r.tasks.Go(r.saveOften)
	}
	return r, nil
}

// URL is where clients find it.
func (r *Redis) URL() string { return "redis://" + r.listener.Addr().String() + "/0" }

// Close stops it, after a last save.
func (r *Redis) Close() error {
	close(r.stop)
	_ = r.listener.Close()
	r.Mini.Close()
	r.tasks.Wait()
	if r.file != "" {
		return r.save()
	}
	return nil
}

func (r *Redis) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.Mini.Server().ServeConn(conn)
	}
}

func (r *Redis) saveOften() {
	tick := time.NewTicker(snapshotInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
			_ = r.save() // the save at the end tells what is wrong
		}
	}
}

// An entry is one key in the file; the field of its type is set.
type entry struct {
	TTL    time.Duration      `json:"ttl,omitempty"`
	String *[]byte            `json:"string,omitempty"`
	Hash   map[string][]byte  `json:"hash,omitempty"`
	List   [][]byte           `json:"list,omitempty"`
	Set    [][]byte           `json:"set,omitempty"`
	Sorted map[string]float64 `json:"sorted,omitempty"`
}

func (r *Redis) save() error {
	db := r.Mini.DB(0)
	all := make(map[string]entry)
	for _, key := range db.Keys() {
		e, err := read(db, key)
		if err != nil {
			if errors.Is(err, miniredis.ErrKeyNotFound) {
				continue // expired meanwhile
			}
			return fmt.Errorf("embedded redis: save key %q: %w", key, err)
		}
		all[key] = e
	}
	b, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("embedded redis: save: %w", err)
	}
	if err := os.WriteFile(r.file+".new", b, 0o600); err != nil {
		return fmt.Errorf("embedded redis: save: %w", err)
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		return fmt.Errorf("embedded redis: save: %w", err)
	}
	return nil
}

func read(db *miniredis.RedisDB, key string) (entry, error) {
	e := entry{TTL: db.TTL(key)}
	var err error
	switch kind := db.Type(key); kind {
	case "string":
		var v string
		v, err = db.Get(key)
		b := []byte(v)
		e.String = &b
	case "hash":
		var fields []string
		fields, err = db.HKeys(key)
		e.Hash = make(map[string][]byte, len(fields))
		for _, f := range fields {
			e.Hash[f] = []byte(db.HGet(key, f))
		}
	case "list":
		var l []string
		l, err = db.List(key)
		e.List = toBytes(l)
	case "set":
		var l []string
		l, err = db.Members(key)
		e.Set = toBytes(l)
	case "zset":
		e.Sorted, err = db.SortedSet(key)
	case "none", "":
		err = miniredis.ErrKeyNotFound
	default:
		err = fmt.Errorf("type %q is not kept", kind)
	}
	return e, err
}

func (r *Redis) load() error {
	b, err := os.ReadFile(r.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("embedded redis: %w", err)
	}
	var all map[string]entry
	if err := json.Unmarshal(b, &all); err != nil {
		return fmt.Errorf("embedded redis: %s: %w", r.file, err)
	}
	db := r.Mini.DB(0)
	for key, e := range all {
		if err := e.write(db, key); err != nil {
			return fmt.Errorf("embedded redis: %s: key %q: %w", r.file, key, err)
		}
	}
	return nil
}

func (e entry) write(db *miniredis.RedisDB, key string) error {
	var err error
	switch {
	case e.String != nil:
		err = db.Set(key, string(*e.String))
	case e.Hash != nil:
		for f, v := range e.Hash {
			db.HSet(key, f, string(v))
		}
	case e.List != nil:
		_, err = db.Push(key, toStrings(e.List)...)
	case e.Set != nil:
		_, err = db.SetAdd(key, toStrings(e.Set)...)
	}
	for member, score := range e.Sorted {
		if _, err := db.ZAdd(key, score, member); err != nil {
			return err
		}
	}
	if err == nil && e.TTL > 0 {
		db.SetTTL(key, e.TTL)
	}
	return err
}

func toBytes(l []string) [][]byte {
	out := make([][]byte, len(l))
	for i, s := range l {
		out[i] = []byte(s)
	}
	return out
}

func toStrings(l [][]byte) []string {
	out := make([]string, len(l))
	for i, b := range l {
		out[i] = string(b)
	}
	return out
}
