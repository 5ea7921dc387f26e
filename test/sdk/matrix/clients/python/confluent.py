"""confluent-kafka (librdkafka); README.md of this directory has the commands."""

import os
import sys
import threading
import time

import confluent_kafka
from confluent_kafka import Consumer, KafkaException, OFFSET_BEGINNING, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec


def say(*fields):
    print(*fields, sep="\t", flush=True)


def settings(bootstrap, more):
    all = {"bootstrap.servers": bootstrap, "client.id": "confluent", **dict(s.split("=", 1) for s in more)}
    if "TOKEN" in os.environ:
        all["oauth_cb"] = lambda _: (os.environ["TOKEN"], time.time() + 3600)
    return all


def version(_):
    say("version", f"{confluent_kafka.version()} (librdkafka {confluent_kafka.libversion()[0]})")


def produce(bootstrap, topic, count, keys, *more):
    failures = []

    def delivered(err, message):
        if err is not None:
            failures.append(err)
            return
        say("sent", message.partition(), message.offset(), message.key().decode(), message.value().decode())

    producer = Producer(settings(bootstrap, more))
    for i in range(int(count)):
        producer.produce(topic, key=f"k{i % int(keys)}", value=f"confluent-{i}", on_delivery=delivered)
        producer.poll(0)
    left = producer.flush(20)
    if failures or left:
        sys.exit(f"{left} records are left, failures: {failures}")


def record(message):
    if message.error():
        raise KafkaException(message.error())
    say("record", message.partition(), message.offset(), message.key().decode(), message.value().decode())


def consume(bootstrap, topic, group, *more):
    stop = threading.Event()

    def watch_input():
        sys.stdin.read()
        stop.set()

    threading.Thread(target=watch_input, daemon=True).start()
    consumer = Consumer({**settings(bootstrap, more), "group.id": group, "auto.offset.reset": "earliest"})

    def numbers(partitions):
        return ",".join(str(n) for n in sorted(p.partition for p in partitions))

    # By the newer protocol the callbacks tell what comes and goes, not all that there is.
    newer = "group.protocol=consumer" in more
    mine = {}

    def assigned(_, come):
        if newer:
            mine.update({(p.topic, p.partition): p for p in come})
            come = mine.values()
        say("assigned", numbers(come))

    def revoked(_, gone):
        say("revoked", numbers(gone))
        if newer:
            for p in gone:
                mine.pop((p.topic, p.partition), None)
            say("assigned", numbers(mine.values()))

    consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked)
    while not stop.is_set():
        message = consumer.poll(0.2)
        if message is not None:
            record(message)
    consumer.close()


def seek(bootstrap, topic, first, others, *more):
    consumer = Consumer({**settings(bootstrap, more), "group.id": "not used", "enable.auto.commit": False})

    def read(count):
        while count > 0:
            message = consumer.poll(0.2)
            if message is not None:
                record(message)
                count -= 1

    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(6)])
    consumer.pause([TopicPartition(topic, 0)])
    read(int(others))
    say("resumed")
    consumer.resume([TopicPartition(topic, 0)])
    read(int(first))
    say("sought")
    consumer.seek(TopicPartition(topic, 0, 2))
    read(int(first) - 2)
    consumer.close()


def admin(bootstrap, topic, existing, *more):
    client = AdminClient(settings(bootstrap, more))

    def wait(futures):
        return [f.result(30) for f in futures.values()]

    wait(client.create_topics([NewTopic(topic, 3, config={"retention.ms": "3600000"})]))
    metadata = client.list_topics(topic, timeout=30)
    say("created", topic in client.list_topics(timeout=30).topics)
    partitions = metadata.topics[topic].partitions
    say("described", len(partitions), all(p.leader in metadata.brokers for p in partitions.values()))
    (config,) = wait(client.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]))
    say("config", config["retention.ms"].value)

    def total(spec):
        return sum(o.offset for o in wait(client.list_offsets({TopicPartition(existing, p): spec for p in range(6)})))

    say("offsets", total(OffsetSpec.earliest()), total(OffsetSpec.latest()))
    wait(client.delete_topics([topic]))
    say("deleted", topic not in client.list_topics(timeout=30).topics)


def transaction(bootstrap, topic, *more):
    producer = Producer({**settings(bootstrap, more), "transactional.id": "matrix"})
    try:
        producer.init_transactions(20)
        say("accepted")
    except KafkaException as e:
        say("refused", e.args[0].name(), e.args[0].retriable())


if __name__ == "__main__":
    {f.__name__: f for f in [version, produce, consume, seek, admin, transaction]}[sys.argv[1]](*sys.argv[2:])
    say("done")
