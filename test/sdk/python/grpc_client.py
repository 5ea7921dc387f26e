"""grpcio with code that grpcio-tools generated from braid's proto files.

What happens is printed, one event in a line, fields separated by tabs.

  produce TARGET TOPIC COUNT KEYS
  consume TARGET TOPIC GROUP        ends with its input
  read TARGET TOPIC
  errors TARGET TOPIC
"""

import queue
import sys
import threading

import grpc

from braid.v1 import consumer_pb2, consumer_pb2_grpc, producer_pb2, producer_pb2_grpc, record_pb2
from google.rpc import error_details_pb2, status_pb2


def say(*fields):
    print(*fields, sep="\t", flush=True)


def frames(requests):
    """Yields what is put into the queue until None."""
    while (request := requests.get()) is not None:
        yield request


def produce(target, topic, count, keys):
    count, keys = int(count), int(keys)
    requests = queue.Queue()
    stub = producer_pb2_grpc.ProducerServiceStub(grpc.insecure_channel(target))
    answers = stub.Produce(frames(requests))
    requests.put(producer_pb2.ProduceRequest(open=producer_pb2.ProduceOpen(client_id="grpcio")))
    opened = next(answers).opened
    if not opened.producer.producer_id:
        sys.exit("the stream has no producer id")
    sent, acked, next_record, closed = {}, 0, 0, False

    def send():
        nonlocal next_record
        seq = len(sent) + 1
        batch = [(f"k{i % keys}", f"grpcio-{i}") for i in range(next_record, min(next_record + 10, count))]
        next_record += len(batch)
        sent[seq] = batch
        records = [record_pb2.Record(key=k.encode(), value=v.encode()) for k, v in batch]
        requests.put(producer_pb2.ProduceRequest(batch=producer_pb2.ProduceFrame(batch_seq=seq, topic=topic, records=records)))

    credit = opened.credit.max_batches
    while next_record < count and len(sent) < credit:
        send()
    for answer in answers:
        kind = answer.WhichOneof("frame")
        if kind == "credit":
            credit = answer.credit.max_batches
        elif kind == "acks":
            for ack in answer.acks.acks:
                for result in ack.results:
                    if result.HasField("failure"):
                        sys.exit(f"batch {ack.batch_seq}: {result.failure}")
                    acked += result.record_count
        elif kind == "closed":
            closed = True
            continue
        while next_record < count and len(sent) < credit:
            send()
        if acked == count:
            requests.put(None)
    if not closed or acked != count:
        sys.exit(f"closed: {closed}, acknowledged: {acked}")
    for batch in sent.values():
        for k, v in batch:
            say("sent", -1, -1, k, v)


def consume(target, topic, group):
    requests = queue.Queue()

    def watch_input():
        sys.stdin.read()
        requests.put(consumer_pb2.ConsumeRequest(leave=consumer_pb2.Leave()))
        requests.put(None)

    stub = consumer_pb2_grpc.ConsumerServiceStub(grpc.insecure_channel(target))
    answers = stub.Consume(frames(requests))
    start = consumer_pb2.Position(earliest=True)
    requests.put(consumer_pb2.ConsumeRequest(subscribe=consumer_pb2.Subscribe(
        group=group, topics=[topic], fallback=start, client_id="grpcio")))
    threading.Thread(target=watch_input, daemon=True).start()
    mine, commit_id, read, closed = set(), 0, 0, False
    for answer in answers:
        kind = answer.WhichOneof("frame")
        if kind == "assignment":
            update = answer.assignment
            mine |= {a.partition for a in update.assigned}
            if update.revoking:
                requests.put(consumer_pb2.ConsumeRequest(revoked=consumer_pb2.Revoked(
                    member_epoch=update.member_epoch, partitions=update.revoking)))
            mine -= {p.partition for p in [*update.revoking, *update.lost]}
            say("assigned", ",".join(str(p) for p in sorted(mine)))
        elif kind == "records":
            batch = answer.records
            for r in batch.records:
                say("record", batch.partition, r.offset, r.key.decode(), r.value.decode())
            read += len(batch.records)
            commit_id += 1
            requests.put(consumer_pb2.ConsumeRequest(commit=consumer_pb2.Commit(commit_id=commit_id, offsets=[
                record_pb2.PartitionOffset(topic=topic, partition=batch.partition, offset=batch.next_offset)])))
            requests.put(consumer_pb2.ConsumeRequest(credit=record_pb2.Credit(
                max_records=1000 + read, max_bytes=(8 << 20) + 4096 * read)))
        elif kind == "commit_result":
            if answer.commit_result.failures:
                sys.exit(f"commit: {answer.commit_result.failures}")
        elif kind == "closed":
            closed = True
    if not closed:
        sys.exit("the stream ended without its last frame")


def read(target, topic):
    stub = consumer_pb2_grpc.ConsumerServiceStub(grpc.insecure_channel(target))
    source = consumer_pb2.ReadSource(topic=topic, start=consumer_pb2.Position(earliest=True))
    closed = False
    for answer in stub.Read(consumer_pb2.ReadRequest(sources=[source], stop=consumer_pb2.StopAt(latest_at_start=True))):
        for r in answer.records.records:
            say("record", answer.records.partition, r.offset, r.key.decode(), r.value.decode())
        closed = closed or answer.WhichOneof("frame") == "closed"
    if not closed:
        sys.exit("the stream ended without its last frame")


def errors(target, topic):
    """Errors are readable with what any gRPC client has: status code, and ErrorInfo in the details."""
    stub = consumer_pb2_grpc.ConsumerServiceStub(grpc.insecure_channel(target))
    try:
        stub.GetTopicInfo(consumer_pb2.GetTopicInfoRequest(topic=topic))
        say("answered")
    except grpc.RpcError as e:
        details = dict(e.trailing_metadata()).get("grpc-status-details-bin", b"")
        for detail in status_pb2.Status.FromString(details).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                say("error", e.code().name, info.reason, info.domain)


if __name__ == "__main__":
    {"produce": produce, "consume": consume, "read": read, "errors": errors}[sys.argv[1]](*sys.argv[2:])
    say("done")
