// connect-es on Node, with code that protoc-gen-es generated from braid's proto files.
//
//   produce URL TOPIC COUNT KEYS
//   consume URL TOPIC GROUP      ends with its input
//   read URL TOPIC               by HTTP/1.1
//   errors URL TOPIC
import { createClient, ConnectError, Code } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { ConsumerService } from "./gen/braid/v1/consumer_pb.js";
import { ProducerService } from "./gen/braid/v1/producer_pb.js";
import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { inputEnds, main, print } from "./print.mjs";

const text = new TextDecoder();
const bytes = new TextEncoder();

// A Queue is an async iterable that is filled from outside.
class Queue {
  #items = [];
  #wake = () => {};
  put(item) {
    this.#items.push(item);
    this.#wake();
  }
  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#items.length === 0) await new Promise((resolve) => (this.#wake = resolve));
      const item = this.#items.shift();
      if (item === null) return;
      yield item;
    }
  }
}

async function produce(baseUrl, topic, count, keys) {
  const client = createClient(ProducerService, createConnectTransport({ baseUrl, httpVersion: "2" }));
  const requests = new Queue();
  requests.put({ frame: { case: "open", value: { clientId: "connect-node" } } });
  const sent = [];
  let acked = 0n, closed = false, next = 0, credit = 0n;
  const total = Number(count);
  const send = () => {
    while (next < total && BigInt(sent.length) < credit) {
      const batch = [];
      for (const end = Math.min(next + 10, total); next < end; next++) batch.push([`k${next % Number(keys)}`, `connect-node-${next}`]);
      sent.push(batch);
      const records = batch.map(([key, value]) => ({ key: bytes.encode(key), value: bytes.encode(value) }));
      requests.put({ frame: { case: "batch", value: { batchSeq: BigInt(sent.length), topic, records } } });
    }
  };
  for await (const { frame } of client.produce(requests)) {
    switch (frame.case) {
      case "opened":
        credit = frame.value.credit.maxBatches;
        break;
      case "credit":
        credit = frame.value.maxBatches;
        break;
      case "acks":
        for (const result of frame.value.acks.flatMap((a) => a.results)) {
          if (result.failure) throw new Error(result.failure.message);
          acked += BigInt(result.recordCount);
        }
        if (acked === BigInt(total)) requests.put(null);
        break;
      case "closed":
        closed = true;
    }
    send();
  }
  if (!closed) throw new Error("the stream ended without its last frame");
  for (const [key, value] of sent.flat()) print("sent", -1, -1, key, value);
}

async function consume(baseUrl, topic, group) {
  const client = createClient(ConsumerService, createGrpcTransport({ baseUrl }));
  const requests = new Queue();
  const put = (kind, value) => requests.put({ frame: { case: kind, value } });
  put("subscribe", { group, topics: [topic], fallback: { at: { case: "earliest", value: true } }, clientId: "connect-node" });
  inputEnds.then(() => {
    put("leave", {});
    requests.put(null);
  });
  let mine = new Set(), read = 0n, commitId = 0n, closed = false;
  for await (const { frame } of client.consume(requests)) {
    switch (frame.case) {
      case "assignment": {
        const { assigned, revoking, lost, memberEpoch } = frame.value;
        for (const a of assigned) mine.add(a.partition);
        if (revoking.length > 0) put("revoked", { memberEpoch, partitions: revoking });
        for (const p of [...revoking, ...lost]) mine.delete(p.partition);
        print("assigned", [...mine].sort().join(","));
        break;
      }
      case "records": {
        const { partition, records, nextOffset } = frame.value;
        for (const r of records) print("record", partition, r.offset, text.decode(r.key), text.decode(r.value));
        read += BigInt(records.length);
        put("commit", { commitId: ++commitId, offsets: [{ topic, partition, offset: nextOffset }] });
        put("credit", { maxRecords: 1000n + read, maxBytes: (8n << 20n) + 4096n * read });
        break;
      }
      case "commitResult":
        for (const f of frame.value.failures) throw new Error(f.failure.message);
        break;
      case "closed":
        closed = true;
    }
  }
  if (!closed) throw new Error("the stream ended without its last frame");
}

async function read(baseUrl, topic) {
  const client = createClient(ConsumerService, createConnectTransport({ baseUrl, httpVersion: "1.1" }));
  let closed = false;
  const request = { sources: [{ topic, start: { at: { case: "earliest", value: true } } }], stop: { at: { case: "latestAtStart", value: true } } };
  for await (const { frame } of client.read(request)) {
    if (frame.case === "records") {
      for (const r of frame.value.records) print("record", frame.value.partition, r.offset, text.decode(r.key), text.decode(r.value));
    }
    closed ||= frame.case === "closed";
  }
  if (!closed) throw new Error("the stream ended without its last frame");
}

async function errors(baseUrl, topic) {
  const client = createClient(ConsumerService, createConnectTransport({ baseUrl, httpVersion: "1.1" }));
  try {
    await client.getTopicInfo({ topic });
    print("answered");
  } catch (e) {
    const error = ConnectError.from(e);
    const [info] = error.findDetails(ErrorInfoSchema);
    print("error", Code[error.code], info?.reason, info?.domain);
  }
}

await main({ produce, consume, read, errors });
