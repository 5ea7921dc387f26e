"""confluent-kafka (librdkafka) with its default configuration: not idempotent,
acks=-1, no end of retries within message.timeout.ms (5 min), any number of
requests in flight. The lines are those of clients.go.

  produce BOOTSTRAP TOPIC NAME KEYS PER_SECOND
  consume BOOTSTRAP TOPIC GROUP
"""

import sys
import threading
import time

from confluent_kafka import Consumer, Producer

stop = threading.Event()
write = threading.Lock()


def say(*fields):
    line = "\t".join(str(f).replace("\t", " ").replace("\n", " ") for f in fields)
    with write:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def watch_input():
    sys.stdin.read()
    stop.set()


def settings(bootstrap, client_id):
    # What error_cb is told is for information: the client goes on by itself.
    return {"bootstrap.servers": bootstrap, "client.id": client_id, "error_cb": lambda e: say("note", e.name(), e.str())}


def produce(bootstrap, topic, name, keys, per_second):
    keys, pace = int(keys), 1 / int(per_second)
    producer = Producer(settings(bootstrap, name))
    last = [0] * keys
    at = 0

    def delivered_since(begin):
        def delivered(err, message):
            if err is not None:
                say("failed", message.value().decode(), err.name(), err.str())
                return
            micros = int((time.monotonic() - begin) * 1e6)
            say("sent", message.partition(), message.offset(), message.key().decode(), message.value().decode(), micros)

        return delivered

    due = time.monotonic()
    while not stop.is_set():
        k = at % keys
        at += 1
        last[k] += 1
        producer.produce(topic, key=f"k{k}", value=f"{name}/k{k}/{last[k]}", on_delivery=delivered_since(time.monotonic()))
        due += pace
        while not stop.is_set():
            left = due - time.monotonic()
            producer.poll(max(0, left))
            if left <= 0:
                break
    left = producer.flush(330)
    if left:
        sys.exit(f"{left} records have no answer")


def consume(bootstrap, topic, group):
    consumer = Consumer({**settings(bootstrap, "confluent-member"), "group.id": group, "auto.offset.reset": "earliest"})

    def numbers(partitions):
        return ",".join(str(n) for n in sorted(p.partition for p in partitions))

    consumer.subscribe(
        [topic],
        on_assign=lambda _, come: say("assigned", numbers(come)),
        on_revoke=lambda _, gone: say("revoked", numbers(gone)),
        on_lost=lambda _, gone: say("lost", numbers(gone)),
    )
    while not stop.is_set():
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            say("error", message.error().name(), message.error().str())
            continue
        say("record", message.partition(), message.offset(), message.key().decode(), message.value().decode())
    consumer.close()


if __name__ == "__main__":
    threading.Thread(target=watch_input, daemon=True).start()
    {"produce": produce, "consume": consume}[sys.argv[1]](*sys.argv[2:])
    say("done")
