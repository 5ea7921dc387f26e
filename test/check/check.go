// Package check decides from what clients saw whether a log kept its promises:
// nothing acknowledged is lost, nothing is there twice, each key keeps its order,
// and one offset of a partition has one value for all readers.
package check

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// problemsMax bounds how many problems of a kind are listed.
const problemsMax = 10

// A Value is what producers write: the number is the key's counter at that producer.
type Value struct {
	Producer string
	Key      string
	Number   int
}

// String is the value as it is written.
func (v Value) String() string { return v.Producer + "/" + v.Key + "/" + strconv.Itoa(v.Number) }

// Parse reads a value back.
func Parse(s string) (Value, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return Value{}, fmt.Errorf("%q is no value of a producer", s)
	}
	n, err := strconv.Atoi(parts[2])
	if err != nil {
		return Value{}, fmt.Errorf("%q is no value of a producer: %w", s, err)
	}
	return Value{parts[0], parts[1], n}, nil
}

// A Record is a record as somebody read it.
type Record struct {
	Partition int32
	Offset    int64
	Key       string
	Value     string
}

// A Report counts what Audit looked at.
type Report struct {
	Acknowledged, InLog, Read     int
	Lost, Double, Disorder, Torn  int
	UnacknowledgedButInLog, Reads int
	problems                      []string
}

func (r *Report) problem(count *int, format string, args ...any) {
	*count++
	if *count <= problemsMax {
		r.problems = append(r.problems, fmt.Sprintf(format, args...))
	}
}

// Err says what is wrong; nil if nothing is.
func (r *Report) Err() error {
	if r.Lost+r.Double+r.Disorder+r.Torn == 0 && len(r.problems) == 0 {
		return nil
	}
	return errors.New(r.String() + "\n" + strings.Join(r.problems, "\n"))
}

// String is one line of figures.
func (r *Report) String() string {
	return fmt.Sprintf("%d acknowledged, %d in the log (%d of them never acknowledged), %d read by groups: %d lost, %d double, %d out of order, %d offsets with two values",
		r.Acknowledged, r.InLog, r.UnacknowledgedButInLog, r.Reads, r.Lost, r.Double, r.Disorder, r.Torn)
}

type position struct {
	partition int32
	offset    int64
}

// Audit compares the whole log with what idempotent producers got acknowledged
// and with what readers of groups saw. log is in any order.
func Audit(log []Record, acknowledged []Value, reads []Record) *Report {
	r := &Report{Acknowledged: len(acknowledged), InLog: len(log), Reads: len(reads)}
	log = slices.Clone(log)
	slices.SortFunc(log, func(a, b Record) int {
		if a.Partition != b.Partition {
			return int(a.Partition - b.Partition)
		}
		if a.Offset < b.Offset {
			return -1
		}
		return 1
	})
	at := make(map[position]string, len(log))
	times := make(map[Value]int, len(log))
	first := make(map[Value]position, len(log))
	// By partition: a key that is in two, because the topic has grown, is in order in each.
	type series struct {
		partition     int32
		producer, key string
	}
	last := make(map[series]int)
	for _, record := range log {
		p := position{record.Partition, record.Offset}
		if was, ok := at[p]; ok {
			r.problem(&r.Torn, "partition %d offset %d has %q and %q", p.partition, p.offset, was, record.Value)
		}
		at[p] = record.Value
		v, err := Parse(record.Value)
		if err != nil || v.Key != record.Key {
			r.problem(&r.Torn, "partition %d offset %d: key %q, value %q", p.partition, p.offset, record.Key, record.Value)
			continue
		}
		if times[v]++; times[v] > 1 {
			r.problem(&r.Double, "%s is in the log %d times: first at partition %d offset %d, again at partition %d offset %d", v, times[v], first[v].partition, first[v].offset, p.partition, p.offset)
			continue
		}
		first[v] = p
		of := series{record.Partition, v.Producer, v.Key}
		if before, ok := last[of]; ok && v.Number <= before {
			r.problem(&r.Disorder, "%s is after number %d at partition %d offset %d", v, before, p.partition, p.offset)
		}
		last[of] = v.Number
	}
	known := make(map[Value]bool, len(acknowledged))
	for _, v := range acknowledged {
		known[v] = true
		if times[v] == 0 {
			r.problem(&r.Lost, "%s was acknowledged and is not in the log", v)
		}
	}
	for v := range times {
		if !known[v] {
			r.UnacknowledgedButInLog++
		}
	}
	r.readers(at, reads)
	return r
}

// AuditUnordered is Audit for a log in which records may be behind later ones of their
// key, as those are that were appended again after their cluster had failed.
func AuditUnordered(log []Record, acknowledged []Value) *Report {
	r := Audit(log, acknowledged, nil)
	r.Disorder = 0
	r.problems = slices.DeleteFunc(r.problems, func(p string) bool { return strings.Contains(p, " is after number ") })
	return r
}

// readers checks that readers saw what the log has, and saw all of it.
func (r *Report) readers(at map[position]string, reads []Record) {
	if len(reads) == 0 {
		return
	}
	seen := make(map[position]bool, len(reads))
	for _, record := range reads {
		p := position{record.Partition, record.Offset}
		seen[p] = true
		if value, ok := at[p]; !ok || value != record.Value {
			r.problem(&r.Torn, "a reader saw %q at partition %d offset %d, the log has %q", record.Value, p.partition, p.offset, value)
		}
	}
	r.Read = len(seen)
	for p, value := range at {
		if !seen[p] {
			r.problem(&r.Lost, "no reader of the group saw %q at partition %d offset %d", value, p.partition, p.offset)
		}
	}
}
