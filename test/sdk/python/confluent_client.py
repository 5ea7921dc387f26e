"""confluent-kafka (librdkafka) with its default configuration.

What happens is printed, one event in a line, fields separated by tabs.

  produce BOOTSTRAP TOPIC COUNT KEYS [SETTING=VALUE ...]
  consume BOOTSTRAP TOPIC GROUP [SETTING=VALUE ...]     ends with its input
  hesitate BOOTSTRAP TOPIC GROUP [SETTING=VALUE ...]    the same, but takes its assignment only after a line of input
  admin BOOTSTRAP TOPIC
  transaction BOOTSTRAP TOPIC
"""

import sys
import threading

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic


def say(*fields):
    print(*fields, sep="\t", flush=True)


def settings(bootstrap, more=()):
    return {"bootstrap.servers": bootstrap, "client.id": "confluent", **dict(s.split("=", 1) for s in more)}


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
    left = producer.flush(60)
    if failures or left:
        sys.exit(f"{left} records are left, failures: {failures}")


def consume(bootstrap, topic, group, *more, hesitates=False):
    stop, go = threading.Event(), threading.Event()

    def watch_input():
        if hesitates:
            sys.stdin.readline()
        go.set()
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
            mine.update({p.partition: p for p in come})
            come = mine.values()
        say("assigned", numbers(come))
        if hesitates:
            go.wait()  # librdkafka asks for the committed offsets when this returns

    def revoked(_, gone):
        say("revoked", numbers(gone))
        if newer:
            for p in gone:
                mine.pop(p.partition, None)
            say("assigned", numbers(mine.values()))

    consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked)
    while not stop.is_set():
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        say("record", message.partition(), message.offset(), message.key().decode(), message.value().decode())
    consumer.close()


def hesitate(*args):
    consume(*args, hesitates=True)


def admin(bootstrap, topic):
    client = AdminClient(settings(bootstrap))

    def wait(futures):
        return [f.result(30) for f in futures.values()]

    wait(client.create_topics([NewTopic(topic, 3, config={"retention.ms": "3600000"})]))
    metadata = client.list_topics(topic, timeout=30)
    partitions = metadata.topics[topic].partitions
    say("described", len(partitions), all(p.leader in metadata.brokers for p in partitions.values()))
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    (config,) = wait(client.describe_configs([resource]))
    say("config", config["retention.ms"].value)
    wait(client.create_partitions([NewPartitions(topic, 5)]))
    say("described", len(client.list_topics(topic, timeout=30).topics[topic].partitions))
    wait(client.delete_topics([topic]))
    say("listed", topic in client.list_topics(timeout=30).topics)
    consumer = Consumer({**settings(bootstrap), "group.id": "confluent-admin"})
    try:
        consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        say("watermarks of a deleted topic")
    except KafkaException as e:
        say("unknown", e.args[0].name())
    consumer.close()


def transaction(bootstrap, topic):
    producer = Producer({**settings(bootstrap), "transactional.id": "t2"})
    try:
        producer.init_transactions(20)
        say("accepted")
    except KafkaException as e:
        say("refused", e.args[0].name(), e.args[0].retriable())


if __name__ == "__main__":
    {"produce": produce, "consume": consume, "hesitate": hesitate, "admin": admin, "transaction": transaction}[sys.argv[1]](*sys.argv[2:])
    say("done")
