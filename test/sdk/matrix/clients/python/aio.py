"""aiokafka; README.md of this directory has the commands."""

import asyncio
import os
import re
import ssl
import sys

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType


def say(*fields):
    print(*fields, sep="\t", flush=True)


class Token(AbstractTokenProvider):
    async def token(self):
        return os.environ["TOKEN"]


def settings(bootstrap, more):
    given = dict(s.split("=", 1) for s in more)
    all = {"bootstrap_servers": bootstrap}
    if "mechanism" in given:
        all |= {"security_protocol": "SASL_SSL", "sasl_mechanism": given["mechanism"], "ssl_context": ssl.create_default_context(cafile=given["ca"])}
        if given["mechanism"] == "OAUTHBEARER":
            all["sasl_oauth_token_provider"] = Token()
        else:
            all |= {"sasl_plain_username": given["user"], "sasl_plain_password": given["password"]}
    return all, given


async def version(_):
    say("version", aiokafka.__version__)


async def produce(bootstrap, topic, count, keys, *more):
    all, given = settings(bootstrap, more)
    if "compression" in given:
        all["compression_type"] = given["compression"]
    if "idempotent" in given:
        all["enable_idempotence"] = True
    producer = AIOKafkaProducer(**all)
    await producer.start()
    try:
        sent = []
        for i in range(int(count)):
            key, value = f"k{i % int(keys)}", f"aio-{i}"
            sent.append((key, value, await producer.send(topic, key=key.encode(), value=value.encode())))
        for key, value, future in sent:
            m = await future
            say("sent", m.partition, m.offset, key, value)
    finally:
        await producer.stop()


def record(r):
    say("record", r.partition, r.offset, r.key.decode(), r.value.decode())


class Listener(ConsumerRebalanceListener):
    async def on_partitions_revoked(self, revoked):
        say("revoked", ",".join(str(p.partition) for p in sorted(revoked)))

    async def on_partitions_assigned(self, assigned):
        say("assigned", ",".join(str(p.partition) for p in sorted(assigned)))


async def consume(bootstrap, topic, group, *more):
    all, given = settings(bootstrap, more)
    if "instance" in given:
        all["group_instance_id"] = given["instance"]
    consumer = AIOKafkaConsumer(group_id=group, auto_offset_reset="earliest", **all)
    if topic.startswith("^"):
        consumer.subscribe(pattern=topic, listener=Listener())
    else:
        consumer.subscribe([topic], listener=Listener())
    stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await consumer.start()
    try:
        while not stop.done():
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for r in records:
                    record(r)
    finally:
        await consumer.stop()


async def seek(bootstrap, topic, first, others, *more):
    consumer = AIOKafkaConsumer(auto_offset_reset="earliest", **settings(bootstrap, more)[0])
    await consumer.start()

    async def read(count):
        while count > 0:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for r in records:
                    record(r)
                    count -= 1

    zero = TopicPartition(topic, 0)
    consumer.assign([TopicPartition(topic, p) for p in range(6)])
    consumer.pause(zero)
    await read(int(others))
    say("resumed")
    consumer.resume(zero)
    await read(int(first))
    say("sought")
    consumer.seek(zero, 2)
    await read(int(first) - 2)
    await consumer.stop()


async def admin(bootstrap, topic, existing, *more):
    all, _ = settings(bootstrap, more)
    client = AIOKafkaAdminClient(**all)
    await client.start()
    await client.create_topics([NewTopic(topic, 3, 1, topic_configs={"retention.ms": "3600000"})])
    say("created", topic in await client.list_topics())
    (described,) = await client.describe_topics([topic])
    say("described", len(described["partitions"]), all_led(described["partitions"]))
    (answer,) = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    values = {e[0]: e[1] for e in answer.resources[0][4]}
    say("config", values["retention.ms"])
    consumer = AIOKafkaConsumer(**all)
    await consumer.start()
    partitions = [TopicPartition(existing, p) for p in range(6)]
    say("offsets", sum((await consumer.beginning_offsets(partitions)).values()), sum((await consumer.end_offsets(partitions)).values()))
    await consumer.stop()
    await client.delete_topics([topic])
    say("deleted", topic not in await client.list_topics())
    await client.close()


def all_led(partitions):
    return all(p["leader"] >= 0 and p["isr"] for p in partitions)


async def transaction(bootstrap, topic, *more):
    producer = AIOKafkaProducer(transactional_id="matrix", **settings(bootstrap, more)[0])
    try:
        await producer.start()
        say("accepted")
    except Exception as e:
        say("refused", type(e).__name__)
    finally:
        await producer.stop()


if __name__ == "__main__":
    asyncio.run({f.__name__: f for f in [version, produce, consume, seek, admin, transaction]}[sys.argv[1]](*sys.argv[2:]))
    say("done")
    os._exit(0)  # a thread may still wait for input
