package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// Limits of what one frame of `braid produce` holds, and of one line.
const (
	produceFrameRecords = 500
	produceFrameBytes   = 256 << 10
	produceLineBytes    = 8 << 20
	produceLinger       = 5 * time.Millisecond
)

func produceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "produce TOPIC", GroupID: groupClient,
		Short: "Write the lines of stdin as records",
		Long: `Write the lines of stdin as records, in order and each once (idempotent).

With --format text a line is a value, or with -k a key, the separator and a value;
an empty value after the separator is a tombstone. With --format json a line is an object
{"key": "k", "value": "v", "headers": {"h": "x"}, "partition": 0, "timestampMs": 0},
in which all but value can be left out; a value of null is a tombstone.`,
		Example: "  echo hello | braid produce greetings\n" +
			"  printf 'de:hallo\\nfr:bonjour\\n' | braid produce greetings -k : -H lang=mixed",
		Args: cobra.ExactArgs(1),
	}
	p := &producing{}
	cmd.Flags().StringVarP(&p.separator, "key-separator", "k", "", "what separates key and value in a line")
	headers := cmd.Flags().StringArrayP("header", "H", nil, "header NAME=VALUE of each record; can be repeated")
	cmd.Flags().StringVar(&p.format, "format", "text", "how lines are read: text or json")
	cmd.Flags().Int32Var(&p.partition, "partition", -1, "partition of all records; by key if it is not set")
	acks := cmd.Flags().String("acks", "all", "when a record counts as written: all or leader (replicas)")
	quiet := cmd.Flags().Bool("quiet", false, "do not say how many records were written")
	p.logical = logicalFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		p.topic = args[0]
		if p.format != "text" && p.format != "json" {
			return usagef("--format %q: want text or json", p.format)
		}
		switch *acks {
		case "all":
			p.acks = braidv1.Acks_ACKS_ALL
		case "leader":
			p.acks = braidv1.Acks_ACKS_LEADER
		default:
			return usagef("--acks %q: want all or leader", *acks)
		}
		for _, h := range *headers {
			k, v, ok := strings.Cut(h, "=")
			if !ok || k == "" {
				return usagef("--header %q: want NAME=VALUE", h)
			}
			p.headers = append(p.headers, &braidv1.Header{Key: k, Value: []byte(v)})
		}
		n, err := p.run(cmd.Context(), a, cmd.InOrStdin())
		if !*quiet || err != nil {
			cmd.PrintErrf("%s written to %s\n", plural(n, "record"), p.topic)
		}
		return err
	})
	return cmd
}

// A producing is one run of `braid produce`.
type producing struct {
	topic, format, separator string
	logical                  *string
	partition                int32
	acks                     braidv1.Acks
	headers                  []*braidv1.Header
}

// run sends all lines of in and returns how many records were acknowledged. When
// a gateway drains, the stream goes on at another one.
func (p *producing) run(ctx context.Context, a *api, in io.Reader) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	source := &lineSource{lines: p.lines(ctx, in)}
	var total int64
	for {
		w, err := p.stream(ctx, a, source)
		if w != nil {
			total += w.written
		}
		switch {
		case err != nil:
			return total, a.explain(ctx, err)
		case source.bad != nil:
			return total, source.bad
		case source.ended:
			return total, nil
		}
		a = a.elsewhere(w.endpoints)
	}
}

// stream sends lines over one stream, until there are no more or the gateway
// drains. Everything that was sent is acknowledged if the error is nil.
func (p *producing) stream(ctx context.Context, a *api, source *lineSource) (*produceWindow, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.producer.Produce(ctx)
	if err != nil {
		return nil, err
	}
	open := &braidv1.ProduceOpen{LogicalCluster: *p.logical, Acks: p.acks, ClientId: "braid-cli"}
	if err := stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: open}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	first, err := stream.Receive()
	if err != nil {
		return nil, err
	}
	if first.GetOpened() == nil {
		return nil, errors.New("the gateway did not begin the stream as agreed; is it of another version?")
	}
	// net/http looks at the context only when the request's body has ended.
	defer context.AfterFunc(ctx, func() { _ = stream.CloseRequest() })()
	w := &produceWindow{topic: p.topic, credit: first.GetOpened().GetCredit(), changed: make(chan struct{}, 1), ended: make(chan struct{})}
	var receiveErr error
	go func() {
		defer close(w.ended)
		receiveErr = w.receive(stream)
	}()
	sendErr := p.send(ctx, stream, w, source)
	_ = stream.CloseRequest()
	if sendErr != nil && !errors.Is(sendErr, errDraining) && !errors.Is(sendErr, io.EOF) {
		cancel()
	}
	<-w.ended
	switch {
	case receiveErr != nil && (sendErr == nil || errors.Is(sendErr, errDraining) || errors.Is(sendErr, io.EOF)):
		return w, receiveErr
	case sendErr != nil && !errors.Is(sendErr, errDraining):
		return w, sendErr
	default:
		return w, nil
	}
}

// A line is one record, or why there are no more.
type line struct {
	record    *braidv1.Record
	partition int32
	err       error
}

// lines reads records from in until its end.
func (p *producing) lines(ctx context.Context, in io.Reader) <-chan line {
	out := make(chan line, produceFrameRecords)
	go func() {
		defer close(out)
		scanner := bufio.NewScanner(in)
		scanner.Buffer(make([]byte, 64<<10), produceLineBytes)
		for n := 1; scanner.Scan(); n++ {
			l := p.parse(scanner.Bytes())
			if l.err != nil {
				l.err = fmt.Errorf("line %d: %w", n, l.err)
			}
			select {
			case out <- l:
			case <-ctx.Done():
				return
			}
		}
		if err := scanner.Err(); err != nil {
			if errors.Is(err, bufio.ErrTooLong) {
				err = fmt.Errorf("a line is longer than %d bytes", produceLineBytes)
			}
			select {
			case out <- line{err: err}:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

func (p *producing) parse(b []byte) line {
	l := line{partition: p.partition, record: &braidv1.Record{Headers: p.headers}}
	if p.format == "json" {
		l.err = parseJSONRecord(b, &l)
		return l
	}
	b = bytes.TrimSuffix(bytes.Clone(b), []byte("\r"))
	if p.separator == "" {
		l.record.Value = b
		return l
	}
	key, value, ok := bytes.Cut(b, []byte(p.separator))
	if !ok {
		l.err = fmt.Errorf("no key separator %q in it", p.separator)
		return l
	}
	l.record.Key = key
	if len(value) > 0 {
		l.record.Value = value
	}
	return l
}

type jsonRecord struct {
	Key         *string           `json:"key"`
	Value       *string           `json:"value"`
	Headers     map[string]string `json:"headers"`
	Partition   *int32            `json:"partition"`
	TimestampMs int64             `json:"timestampMs"`
}

func parseJSONRecord(b []byte, l *line) error {
	var j jsonRecord
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return fmt.Errorf("not a record as JSON: %w", err)
	}
	if j.Key != nil {
		l.record.Key = []byte(*j.Key)
	}
	if j.Value != nil {
		l.record.Value = []byte(*j.Value)
	}
	l.record.Headers = append([]*braidv1.Header{}, l.record.Headers...)
	for k, v := range j.Headers {
		l.record.Headers = append(l.record.Headers, &braidv1.Header{Key: k, Value: []byte(v)})
	}
	l.record.TimestampMs = j.TimestampMs
	if j.Partition != nil {
		l.partition = *j.Partition
	}
	return nil
}

// A lineSource gives lines to one stream after the other.
type lineSource struct {
	lines <-chan line
	held  *line // read, but not fit for the last frame
	ended bool
	bad   error // what ended it, if it was not the end of the input
}

// next waits for a line; false at the end, or when stop or ctx ends.
func (s *lineSource) next(ctx context.Context, stop <-chan struct{}) (line, bool) {
	if l := s.held; l != nil {
		s.held = nil
		return *l, true
	}
	select {
	case l, ok := <-s.lines:
		s.ended = !ok
		return l, ok
	case <-stop:
		return line{}, false
	case <-ctx.Done():
		return line{}, false
	}
}

// frame collects lines that come in a moment and share a partition.
func (s *lineSource) frame(ctx context.Context, topic string, first line) (*braidv1.ProduceFrame, int64) {
	frame := &braidv1.ProduceFrame{Topic: topic, Records: []*braidv1.Record{first.record}}
	if first.partition >= 0 {
		frame.Partition = &first.partition
	}
	size := payload(first.record)
	linger := time.NewTimer(produceLinger)
	defer linger.Stop()
	for len(frame.GetRecords()) < produceFrameRecords {
		select {
		case l, ok := <-s.lines:
			if !ok {
				s.ended = true
				return frame, size
			}
			if l.err != nil || l.partition != first.partition || size+payload(l.record) > produceFrameBytes {
				s.held = &l
				return frame, size
			}
			frame.Records = append(frame.Records, l.record)
			size += payload(l.record)
		case <-linger.C:
			return frame, size
		case <-ctx.Done():
			return frame, size
		}
	}
	return frame, size
}

// payload counts what credit counts.
func payload(r *braidv1.Record) int64 {
	n := len(r.GetKey()) + len(r.GetValue())
	for _, h := range r.GetHeaders() {
		n += len(h.GetKey()) + len(h.GetValue())
	}
	return int64(n)
}

type produceStream = connect.BidiStreamForClientSimple[braidv1.ProduceRequest, braidv1.ProduceResponse]

var errDraining = errors.New("the gateway drains")

// send sends frames within the window, until the lines end.
func (p *producing) send(ctx context.Context, stream *produceStream, w *produceWindow, source *lineSource) error {
	for seq := uint64(1); ; seq++ {
		if w.isDraining() {
			return errDraining
		}
		first, ok := source.next(ctx, w.ended)
		if !ok {
			return ctx.Err()
		}
		if first.err != nil {
			source.ended, source.bad = true, first.err
			return nil //nolint:nilerr // what was sent is acknowledged first; the end tells of source.bad
		}
		frame, size := source.frame(ctx, p.topic, first)
		frame.BatchSeq = seq
		if err := w.take(ctx, int64(seq), size); err != nil {
			return err
		}
		if err := stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: frame}}); err != nil {
			return err
		}
		if source.ended {
			return nil
		}
	}
}

// A produceWindow is what the gateway allows and has acknowledged.
type produceWindow struct {
	topic   string
	changed chan struct{} // capacity 1: credit or draining changed
	ended   chan struct{} // closed when nothing more is received

	mu        sync.Mutex // guards the following
	credit    *braidv1.Credit
	sent      int64 // payload bytes
	draining  bool
	endpoints []string
	written   int64 // records; read it when ended is closed
}

// take waits until the credit covers a frame.
func (w *produceWindow) take(ctx context.Context, seq, size int64) error {
	for {
		w.mu.Lock()
		ok := seq <= w.credit.GetMaxBatches() && w.sent+size <= w.credit.GetMaxBytes()
		if ok {
			w.sent += size
		}
		w.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-w.changed:
		case <-w.ended:
			return io.EOF
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *produceWindow) isDraining() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.draining
}

// receive reads answers until the last one. It returns an error if a record was
// refused, or the stream ended without its last frame.
func (w *produceWindow) receive(stream *produceStream) error {
	var refused error
	for {
		msg, err := stream.Receive()
		if err != nil {
			switch {
			case refused != nil:
				return refused
			case errors.Is(err, io.EOF):
				return errors.New("the stream broke; some of the last records may not be written")
			default:
				return err
			}
		}
		switch f := msg.GetFrame().(type) {
		case *braidv1.ProduceResponse_Acks:
			for _, ack := range f.Acks.GetAcks() {
				if err := w.acknowledge(ack); err != nil && refused == nil {
					refused = err
				}
			}
			if refused != nil {
				return refused
			}
		case *braidv1.ProduceResponse_Credit:
			w.mu.Lock()
			w.credit = f.Credit
			w.mu.Unlock()
			w.signal()
		case *braidv1.ProduceResponse_Draining:
			w.mu.Lock()
			w.draining, w.endpoints = true, f.Draining.GetEndpoints()
			w.mu.Unlock()
			w.signal()
		case *braidv1.ProduceResponse_Closed:
			return nil
		}
	}
}

func (w *produceWindow) signal() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// acknowledge counts what was written and returns the first failure.
func (w *produceWindow) acknowledge(ack *braidv1.ProduceAck) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var refused error
	for _, r := range ack.GetRejected() {
		if refused == nil {
			refused = fmt.Errorf("topic %s: a record was refused: %s", w.topic, r.GetFailure().GetMessage())
		}
	}
	for _, r := range ack.GetResults() {
		if f := r.GetFailure(); f != nil {
			if refused == nil {
				refused = failed(w.topic, r.GetPartition(), f)
			}
			continue
		}
		w.written += int64(r.GetRecordCount())
	}
	return refused
}

// failed makes an error of a failure; a partition of -1 is the whole topic.
func failed(topic string, partition int32, f *braidv1.Failure) error {
	text := f.GetMessage()
	if text == "" {
		text = f.GetReason().String()
	}
	if partition < 0 {
		return fmt.Errorf("topic %s: %s", topic, text)
	}
	return fmt.Errorf("topic %s partition %d: %s", topic, partition, text)
}
