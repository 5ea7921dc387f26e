// kafkajs; README.md of this directory has the commands. It has gzip; other codecs are what
// an application registers, as its documentation says.
import fs from "node:fs";
import kafkajs from "kafkajs";
import snappy from "kafkajs-snappy";
import * as zstd from "@bokuweb/zstd-wasm";

const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = kafkajs;
const print = (...fields) => process.stdout.write(fields.join("\t") + "\n");

await zstd.init();
CompressionCodecs[CompressionTypes.Snappy] = snappy;
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
});
const codecs = { gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, zstd: CompressionTypes.ZSTD };

const given = (more) => Object.fromEntries(more.map((s) => [s.slice(0, s.indexOf("=")), s.slice(s.indexOf("=") + 1)]));

function client(bootstrap, more, own = {}) {
  const { mechanism, user: username, password, ca } = given(more);
  const config = { clientId: "kafkajs", brokers: bootstrap.split(","), logLevel: logLevel.ERROR, ...own };
  if (mechanism) {
    config.ssl = { ca: [fs.readFileSync(ca, "utf-8")] };
    config.sasl = { mechanism: mechanism.toLowerCase(), username, password };
    if (mechanism === "OAUTHBEARER") config.sasl = { mechanism: "oauthbearer", oauthBearerProvider: async () => ({ value: process.env.TOKEN }) };
  }
  return new Kafka(config);
}

async function version() {
  print("version", JSON.parse(fs.readFileSync(new URL("node_modules/kafkajs/package.json", import.meta.url))).version);
}

async function produce(bootstrap, topic, count, keys, ...more) {
  const { compression, idempotent } = given(more);
  const producer = client(bootstrap, more).producer({ idempotent: idempotent !== undefined });
  await producer.connect();
  for (let i = 0; i < Number(count); i += 30) {
    const messages = [];
    for (let j = i; j < Math.min(i + 30, Number(count)); j++) messages.push({ key: `k${j % Number(keys)}`, value: `kafkajs-${j}` });
    const results = await producer.send({ topic, messages, compression: codecs[compression] });
    for (const r of results) {
      if (r.errorCode !== 0) throw new Error(`error code ${r.errorCode}`);
    }
    for (const m of messages) print("sent", -1, -1, m.key, m.value);
  }
  await producer.disconnect();
}

// inputEnds resolves when the program is asked to end: its input is closed.
const inputEnds = () =>
  new Promise((resolve) => {
    process.stdin.on("end", resolve);
    process.stdin.on("close", resolve);
    process.stdin.resume();
  });

async function consume(bootstrap, topic, groupId, ...more) {
  const ends = inputEnds();
  const consumer = client(bootstrap, more).consumer({ groupId, rackId: given(more).rack });
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => print("assigned", Object.values(payload.memberAssignment).flat().sort().join(",")));
  await consumer.connect();
  await consumer.subscribe({ topic: topic.startsWith("^") ? new RegExp(topic) : topic, fromBeginning: true });
  await consumer.run({ eachMessage: async ({ partition, message }) => print("record", partition, message.offset, message.key, message.value) });
  await ends;
  await consumer.disconnect();
}

async function seek(bootstrap, topic, first, others, ...more) {
  const consumer = client(bootstrap, more).consumer({ groupId: `seek-${topic}` });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  const zero = [{ topic, partitions: [0] }];
  // It wakes whoever waits for so many records.
  let seen = 0, wake = () => {};
  const until = async (count) => {
    while (seen < count) await new Promise((resolve) => (wake = resolve));
    seen = 0;
  };
  consumer.on(consumer.events.GROUP_JOIN, () => consumer.pause(zero));
  await consumer.run({
    eachMessage: async ({ partition, message }) => {
      print("record", partition, message.offset, message.key, message.value);
      seen++;
      wake();
    },
  });
  await until(Number(others));
  print("resumed");
  consumer.resume(zero);
  await until(Number(first));
  print("sought");
  consumer.seek({ topic, partition: 0, offset: "2" });
  await until(Number(first) - 2);
  await consumer.disconnect();
}

async function admin(bootstrap, topic, existing, ...more) {
  const admin = client(bootstrap, more).admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic, numPartitions: 3, configEntries: [{ name: "retention.ms", value: "3600000" }] }] });
  print("created", (await admin.listTopics()).includes(topic));
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
  print("described", topics[0].partitions.length, topics[0].partitions.every((p) => p.leader >= 0));
  const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type: 2, name: topic, configNames: ["retention.ms"] }] });
  print("config", resources[0].configEntries.find((e) => e.configName === "retention.ms").configValue);
  const offsets = await admin.fetchTopicOffsets(existing);
  const sum = (name) => offsets.reduce((all, o) => all + Number(o[name]), 0);
  print("offsets", sum("low"), sum("high"));
  await admin.deleteTopics({ topics: [topic] });
  print("deleted", !(await admin.listTopics()).includes(topic));
  await admin.disconnect();
}

async function transaction(bootstrap, topic, ...more) {
  // It tells the application that it has not found the coordinator, and why in its log alone.
  let why;
  const kafka = client(bootstrap, more, { logLevel: logLevel.DEBUG, logCreator: () => ({ log }) => { why = log.error?.type ?? why; } });
  const producer = kafka.producer({ transactionalId: "matrix", maxInFlightRequests: 1, idempotent: true });
  try {
    await producer.connect();
    await producer.transaction();
    print("accepted");
  } catch (e) {
    print("refused", (e.cause ?? e).name, why, e.retriable);
  }
}

const [command, ...args] = process.argv.slice(2);
try {
  await { version, produce, consume, seek, admin, transaction }[command](...args);
  print("done");
  process.exit(0);
} catch (e) {
  console.error(e);
  process.exit(1);
}
