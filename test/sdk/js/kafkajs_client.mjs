// kafkajs with its default configuration.
//
//   produce BOOTSTRAP TOPIC COUNT KEYS
//   consume BOOTSTRAP TOPIC GROUP       ends with its input
//   admin BOOTSTRAP TOPIC
import kafkajs from "kafkajs";
import { inputEnds, main, print } from "./print.mjs";

const { Kafka, Partitioners, logLevel } = kafkajs;
const client = (bootstrap) => new Kafka({ clientId: "kafkajs", brokers: bootstrap.split(","), logLevel: logLevel.ERROR });

async function produce(bootstrap, topic, count, keys) {
  const producer = client(bootstrap).producer({ createPartitioner: Partitioners.DefaultPartitioner });
  await producer.connect();
  for (let i = 0; i < Number(count); i += 10) {
    const messages = [];
    for (let j = i; j < Math.min(i + 10, Number(count)); j++) {
      messages.push({ key: `k${j % Number(keys)}`, value: `kafkajs-${j}` });
    }
    const results = await producer.send({ topic, messages });
    for (const r of results) {
      if (r.errorCode !== 0) throw new Error(`error code ${r.errorCode}`);
    }
    for (const m of messages) print("sent", -1, -1, m.key, m.value);
  }
  await producer.disconnect();
}

async function consume(bootstrap, topic, groupId) {
  const consumer = client(bootstrap).consumer({ groupId });
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => print("assigned", (payload.memberAssignment[topic] ?? []).sort().join(",")));
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    eachMessage: async ({ partition, message }) => print("record", partition, message.offset, message.key, message.value),
  });
  await inputEnds;
  await consumer.disconnect();
}

async function admin(bootstrap, topic) {
  const admin = client(bootstrap).admin();
  await admin.connect();
  print("created", await admin.createTopics({ topics: [{ topic, numPartitions: 3, configEntries: [{ name: "retention.ms", value: "3600000" }] }] }));
  const describe = async () => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
    print("described", topics[0].partitions.length, topics[0].partitions.every((p) => p.leader >= 0));
  };
  await describe();
  const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type: 2, name: topic, configNames: ["retention.ms"] }] });
  print("config", resources[0].configEntries.find((e) => e.configName === "retention.ms").configValue);
  await admin.createPartitions({ topicPartitions: [{ topic, count: 5 }] });
  await describe();
  print("offsets", (await admin.fetchTopicOffsets(topic)).length);
  const cluster = await admin.describeCluster();
  print("cluster", cluster.brokers.length, cluster.controller !== null);
  await admin.deleteTopics({ topics: [topic] });
  print("listed", (await admin.listTopics()).includes(topic));
  await admin.disconnect();
}

await main({ produce, consume, admin });
