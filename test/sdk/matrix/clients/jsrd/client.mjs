// @confluentinc/kafka-javascript, the successor of node-rdkafka; README.md of the directory
// above has the commands.
import fs from "node:fs";
import kafka from "@confluentinc/kafka-javascript";

const print = (...fields) => process.stdout.write(fields.join("\t") + "\n");

function settings(bootstrap, more) {
  const all = { "bootstrap.servers": bootstrap, "client.id": "kafka-javascript" };
  for (const s of more) all[s.slice(0, s.indexOf("="))] = s.slice(s.indexOf("=") + 1);
  if (process.env.TOKEN) {
    all.oauthbearer_token_refresh_cb = async () => ({ tokenValue: process.env.TOKEN, lifetime: Date.now() + 3600000, principal: "matrix" });
  }
  return all;
}

const connect = (client) =>
  new Promise((resolve, reject) => {
    client.on("event.error", reject);
    client.connect({ timeout: 20000 }, (err) => (err ? reject(err) : resolve(client)));
  });

async function version() {
  const v = JSON.parse(fs.readFileSync(new URL("node_modules/@confluentinc/kafka-javascript/package.json", import.meta.url))).version;
  print("version", `${v} (librdkafka ${kafka.librdkafkaVersion})`);
}

async function produce(bootstrap, topic, count, keys, ...more) {
  const producer = new kafka.Producer({ ...settings(bootstrap, more), dr_cb: true });
  producer.setPollInterval(10);
  let left = Number(count), failed;
  const all = new Promise((resolve) => {
    producer.on("delivery-report", (err, r) => {
      if (err) failed = err;
      else print("sent", r.partition, r.offset, r.key, r.opaque);
      if (--left === 0) resolve();
    });
  });
  await connect(producer);
  for (let i = 0; i < Number(count); i++) {
    const value = `kafka-javascript-${i}`;
    producer.produce(topic, null, Buffer.from(value), `k${i % Number(keys)}`, undefined, value);
  }
  await all;
  if (failed) throw failed;
}

const record = (r) => print("record", r.partition, r.offset, r.key, r.value);

// failing throws what a consumer has to say, later.
const failing = (consumer) =>
  consumer.on("event.error", (e) => {
    console.error(e);
    process.exit(1);
  });

async function consume(bootstrap, topic, group, ...more) {
  const ends = new Promise((resolve) => {
    process.stdin.on("end", resolve);
    process.stdin.on("close", resolve);
    process.stdin.resume();
  });
  const consumer = new kafka.KafkaConsumer({ ...settings(bootstrap, more), "group.id": group, rebalance_cb: true }, { "auto.offset.reset": "earliest" });
  consumer.on("rebalance", (e, partitions) => {
    const kind = e.code === kafka.CODES.ERRORS.ERR__ASSIGN_PARTITIONS ? "assigned" : "revoked";
    print(kind, partitions.map((p) => p.partition).sort().join(","));
  });
  consumer.on("data", record);
  await connect(consumer);
  failing(consumer);
  consumer.subscribe([topic.startsWith("^") ? new RegExp(topic) : topic]);
  consumer.consume();
  await ends;
  await new Promise((resolve) => consumer.disconnect(resolve));
}

async function seek(bootstrap, topic, first, others, ...more) {
  const consumer = new kafka.KafkaConsumer({ ...settings(bootstrap, more), "group.id": "not used", "enable.auto.commit": false }, { "auto.offset.reset": "earliest" });
  let seen = 0, wake = () => {};
  const until = async (count) => {
    while (seen < count) await new Promise((resolve) => (wake = resolve));
    seen = 0;
  };
  consumer.on("data", (r) => {
    record(r);
    seen++;
    wake();
  });
  await connect(consumer);
  failing(consumer);
  const zero = { topic, partition: 0 };
  consumer.assign([0, 1, 2, 3, 4, 5].map((partition) => ({ topic, partition, offset: 0 })));
  consumer.pause([zero]);
  consumer.consume();
  await until(Number(others));
  print("resumed");
  consumer.resume([zero]);
  await until(Number(first));
  print("sought");
  await new Promise((resolve, reject) => consumer.seek({ ...zero, offset: 2 }, 10000, (err) => (err ? reject(err) : resolve())));
  await until(Number(first) - 2);
  await new Promise((resolve) => consumer.disconnect(resolve));
}

async function admin(bootstrap, topic, existing) {
  const admin = new kafka.KafkaJS.Kafka({ kafkaJS: { brokers: bootstrap.split(","), logLevel: kafka.KafkaJS.logLevel.NOTHING } }).admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic, numPartitions: 3, configEntries: [{ name: "retention.ms", value: "3600000" }] }] });
  print("created", (await admin.listTopics()).includes(topic));
  const described = await admin.fetchTopicMetadata({ topics: [topic] });
  const { partitions } = (described.topics ?? described)[0];
  print("described", partitions.length, partitions.every((p) => p.leader >= 0));
  const offsets = await admin.fetchTopicOffsets(existing);
  const sum = (name) => offsets.reduce((all, o) => all + Number(o[name]), 0);
  print("offsets", sum("low"), sum("high"));
  await admin.deleteTopics({ topics: [topic] });
  print("deleted", !(await admin.listTopics()).includes(topic));
  await admin.disconnect();
}

async function transaction(bootstrap, topic, ...more) {
  const producer = new kafka.Producer({ ...settings(bootstrap, more), "transactional.id": "matrix" });
  await connect(producer);
  await new Promise((resolve) =>
    producer.initTransactions(20000, (err) => {
      print(...(err ? ["refused", err.code] : ["accepted"]));
      resolve();
    }),
  );
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
