//! rdkafka for Rust (librdkafka); README.md of the directory above has the commands.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

type Done = Result<(), Box<dyn Error>>;

macro_rules! say {
    ($($field:expr),*) => { println!("{}", [$(format!("{}", $field)),*].join("\t")) };
}

#[derive(Default)]
struct Context {
    failed: AtomicBool,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        Ok(OAuthToken { token: std::env::var("TOKEN")?, principal_name: "matrix".into(), lifetime_ms: now + 3_600_000 })
    }
}

fn numbers(partitions: &TopicPartitionList) -> String {
    let mut all: Vec<i32> = partitions.elements().iter().map(|p| p.partition()).collect();
    all.sort();
    all.iter().map(|p| p.to_string()).collect::<Vec<_>>().join(",")
}

impl ConsumerContext for Context {
    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(p) => say!("assigned", numbers(p)),
            Rebalance::Revoke(p) => say!("revoked", numbers(p)),
            Rebalance::Error(e) => eprintln!("{e}"),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        match result {
            Ok(m) => print("sent", m),
            Err((e, _)) => {
                eprintln!("{e}");
                self.failed.store(true, Ordering::SeqCst);
            }
        }
    }
}

fn print(kind: &str, m: &BorrowedMessage<'_>) {
    let text = |b: Option<&[u8]>| String::from_utf8_lossy(b.unwrap_or_default()).into_owned();
    say!(kind, m.partition(), m.offset(), text(m.key()), text(m.payload()));
}

fn settings(bootstrap: &str, more: &[String]) -> ClientConfig {
    let mut all = ClientConfig::new();
    all.set("bootstrap.servers", bootstrap).set("client.id", "rdkafka");
    for s in more {
        let (name, value) = s.split_once('=').expect("NAME=VALUE");
        all.set(name, value);
    }
    all
}

fn produce(args: &[String]) -> Done {
    let (count, keys): (usize, usize) = (args[2].parse()?, args[3].parse()?);
    let producer: ThreadedProducer<Context> = settings(&args[0], &args[4..]).create_with_context(Context::default())?;
    for i in 0..count {
        let (key, value) = (format!("k{}", i % keys), format!("rdkafka-{i}"));
        producer.send(BaseRecord::to(&args[1]).key(&key).payload(&value)).map_err(|(e, _)| e)?;
    }
    producer.flush(Duration::from_secs(20))?;
    if producer.context().failed.load(Ordering::SeqCst) {
        return Err("a record failed".into());
    }
    Ok(())
}

fn consume(args: &[String]) -> Done {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        asked.store(true, Ordering::SeqCst);
    });
    let consumer: BaseConsumer<Context> = settings(&args[0], &args[3..])
        .set("group.id", &args[2])
        .set("auto.offset.reset", "earliest")
        .create_with_context(Context::default())?;
    consumer.subscribe(&[&args[1]])?;
    while !stop.load(Ordering::SeqCst) {
        if let Some(m) = consumer.poll(Duration::from_millis(200)) {
            print("record", &m?);
        }
    }
    Ok(()) // dropping it closes it
}

fn seek(args: &[String]) -> Done {
    let (first, others): (usize, usize) = (args[2].parse()?, args[3].parse()?);
    let consumer: BaseConsumer<Context> = settings(&args[0], &args[4..])
        .set("group.id", "not used")
        .set("enable.auto.commit", "false")
        .create_with_context(Context::default())?;
    let read = |count: usize| -> Done {
        for _ in 0..count {
            print("record", &consumer.poll(Duration::from_secs(30)).ok_or("no more messages")??);
        }
        Ok(())
    };
    let (mut all, mut zero) = (TopicPartitionList::new(), TopicPartitionList::new());
    for p in 0..6 {
        all.add_partition_offset(&args[1], p, Offset::Beginning)?;
    }
    zero.add_partition(&args[1], 0);
    consumer.assign(&all)?;
    consumer.pause(&zero)?;
    read(others)?;
    say!("resumed");
    consumer.resume(&zero)?;
    read(first)?;
    say!("sought");
    consumer.seek(&args[1], 0, Offset::Offset(2), Duration::from_secs(10))?;
    read(first - 2)
}

fn admin(args: &[String]) -> Done {
    let (topic, existing) = (args[1].as_str(), args[2].as_str());
    let config = settings(&args[0], &args[3..]);
    let client: AdminClient<Context> = config.create_with_context(Context::default())?;
    let consumer: BaseConsumer<Context> = config.create_with_context(Context::default())?;
    let (options, wait) = (AdminOptions::new(), Duration::from_secs(20));
    let listed = || -> Result<BTreeSet<String>, Box<dyn Error>> {
        Ok(consumer.fetch_metadata(None, wait)?.topics().iter().map(|t| t.name().to_string()).collect())
    };
    let new = NewTopic::new(topic, 3, TopicReplication::Fixed(1)).set("retention.ms", "3600000");
    for created in block_on(client.create_topics(&[new], &options))? {
        created.map_err(|(_, e)| e.to_string())?;
    }
    say!("created", listed()?.contains(topic));
    let metadata = consumer.fetch_metadata(Some(topic), wait)?;
    let partitions = metadata.topics()[0].partitions();
    say!("described", partitions.len(), partitions.iter().all(|p| p.leader() >= 0 && !p.isr().is_empty()));
    for described in block_on(client.describe_configs(&[ResourceSpecifier::Topic(topic)], &options))? {
        let resource = described.map_err(|e| e.to_string())?;
        say!("config", resource.get("retention.ms").and_then(|e| e.value.clone()).unwrap_or_default());
    }
    let (mut earliest, mut latest) = (0, 0);
    for p in 0..6 {
        let (low, high) = consumer.fetch_watermarks(existing, p, wait)?;
        earliest += low;
        latest += high;
    }
    say!("offsets", earliest, latest);
    for deleted in block_on(client.delete_topics(&[topic], &options))? {
        deleted.map_err(|(_, e)| e.to_string())?;
    }
    say!("deleted", !listed()?.contains(topic));
    Ok(())
}

fn transaction(args: &[String]) -> Done {
    let producer: ThreadedProducer<Context> =
        settings(&args[0], &args[2..]).set("transactional.id", "matrix").create_with_context(Context::default())?;
    match producer.init_transactions(Duration::from_secs(20)) {
        Ok(()) => say!("accepted"),
        Err(e) => say!("refused", format!("{:?}", e.rdkafka_error_code())),
    }
    Ok(())
}

fn version(_: &[String]) -> Done {
    let lock = include_str!("../Cargo.lock");
    let own = lock.split("name = \"rdkafka\"\nversion = \"").nth(1).and_then(|s| s.split('"').next()).unwrap_or("unknown");
    say!("version", format!("{own} (librdkafka {})", rdkafka::util::get_rdkafka_version().1));
    Ok(())
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args[0].as_str() {
        "version" => version(&args[1..]),
        "produce" => produce(&args[1..]),
        "consume" => consume(&args[1..]),
        "seek" => seek(&args[1..]),
        "admin" => admin(&args[1..]),
        "transaction" => transaction(&args[1..]),
        other => Err(format!("no command {other}").into()),
    };
    if let Err(e) = done {
        eprintln!("{e}");
        std::process::exit(1);
    }
    say!("done");
}
