"""kafka-python; README.md of this directory has the commands."""

import os
import sys
import threading

import kafka
from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic, OffsetSpec
from kafka.net.sasl.oauth import AbstractTokenProvider


def say(*fields):
    print(*fields, sep="\t", flush=True)


class Token(AbstractTokenProvider):
    def token(self):
        return os.environ["TOKEN"]


def settings(bootstrap, more):
    given = dict(s.split("=", 1) for s in more)
    all = {"bootstrap_servers": bootstrap}
    if "mechanism" in given:
        all |= {"security_protocol": "SASL_SSL", "sasl_mechanism": given["mechanism"], "ssl_cafile": given["ca"]}
        if given["mechanism"] == "OAUTHBEARER":
            all["sasl_oauth_token_provider"] = Token()
        else:
            all |= {"sasl_plain_username": given["user"], "sasl_plain_password": given["password"]}
    return all, given


def version(_):
    say("version", kafka.__version__)


def produce(bootstrap, topic, count, keys, *more):
    all, given = settings(bootstrap, more)
    if "compression" in given:
        all["compression_type"] = given["compression"]
    producer = KafkaProducer(**all)
    sent = []
    for i in range(int(count)):
        key, value = f"k{i % int(keys)}", f"pure-{i}"
        sent.append((key, value, producer.send(topic, key=key.encode(), value=value.encode())))
    producer.flush(20)
    for key, value, future in sent:
        m = future.get(20)
        say("sent", m.partition, m.offset, key, value)
    producer.close()


def read(consumer):
    n = 0
    for records in consumer.poll(timeout_ms=200).values():
        for r in records:
            say("record", r.partition, r.offset, r.key.decode(), r.value.decode())
            n += 1
    return n


class Listener(ConsumerRebalanceListener):
    def on_partitions_revoked(self, revoked):
        say("revoked", ",".join(str(p.partition) for p in sorted(revoked)))

    def on_partitions_assigned(self, assigned):
        say("assigned", ",".join(str(p.partition) for p in sorted(assigned)))


def consume(bootstrap, topic, group, *more):
    all, given = settings(bootstrap, more)
    if "instance" in given:
        all["group_instance_id"] = given["instance"]
    if "rack" in given:
        all["client_rack"] = given["rack"]
    stop = threading.Event()

    def watch_input():
        sys.stdin.read()
        stop.set()

    threading.Thread(target=watch_input, daemon=True).start()
    consumer = KafkaConsumer(group_id=group, auto_offset_reset="earliest", **all)
    if topic.startswith("^"):
        consumer.subscribe(pattern=topic, listener=Listener())
    else:
        consumer.subscribe([topic], listener=Listener())
    while not stop.is_set():
        read(consumer)
    consumer.close()


def seek(bootstrap, topic, first, others, *more):
    consumer = KafkaConsumer(auto_offset_reset="earliest", **settings(bootstrap, more)[0])

    def until(count):
        while count > 0:
            count -= read(consumer)

    zero = TopicPartition(topic, 0)
    consumer.assign([TopicPartition(topic, p) for p in range(6)])
    consumer.pause(zero)
    until(int(others))
    say("resumed")
    consumer.resume(zero)
    until(int(first))
    say("sought")
    consumer.seek(zero, 2)
    until(int(first) - 2)
    consumer.close()


def admin(bootstrap, topic, existing, *more):
    client = KafkaAdminClient(**settings(bootstrap, more)[0])
    client.create_topics([NewTopic(topic, 3, 1, topic_configs={"retention.ms": "3600000"})])
    say("created", topic in client.list_topics())
    (described,) = client.describe_topics([topic])
    partitions = described["partitions"]
    say("described", len(partitions), all(p["leader_id"] >= 0 for p in partitions))
    configs = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    say("config", retention(configs))

    def total(spec):
        return sum(o.offset for o in client.list_partition_offsets({TopicPartition(existing, p): spec for p in range(6)}).values())

    say("offsets", total(OffsetSpec.EARLIEST), total(OffsetSpec.LATEST))
    client.delete_topics([topic])
    say("deleted", topic not in client.list_topics())
    client.close()


def retention(answer):
    """Finds the value in what describe_configs answers."""
    if isinstance(answer, dict):
        if "retention.ms" in answer:
            found = answer["retention.ms"]
            return found["value"] if isinstance(found, dict) else found
        answer = answer.values()
    for part in answer:
        if isinstance(part, (dict, list)) and (found := retention(part)) is not None:
            return found
    return None


def transaction(bootstrap, topic, *more):
    try:
        producer = KafkaProducer(transactional_id="matrix", **settings(bootstrap, more)[0])
        producer.init_transactions()
        say("accepted")
    except Exception as e:
        say("refused", type(e).__name__)


if __name__ == "__main__":
    {f.__name__: f for f in [version, produce, consume, seek, admin, transaction]}[sys.argv[1]](*sys.argv[2:])
    say("done")
    sys.stdout.flush()
    os._exit(0)  # a thread may still wait for input
