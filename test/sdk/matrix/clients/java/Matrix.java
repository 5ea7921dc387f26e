import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.AdminClient;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.utils.AppInfoParser;

/** kafka-clients of any version from 1.1 on; README.md of this directory has the commands. */
public final class Matrix {
    private static final String STRING = "org.apache.kafka.common.serialization.String";

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "version": print("version", AppInfoParser.getVersion()); break;
            case "produce": produce(args); break;
            case "consume": consume(args); break;
            case "seek": seek(args); break;
            case "admin": admin(args); break;
            case "transaction": transaction(args); break;
            default: throw new IllegalArgumentException(args[0]);
        }
        print("done");
        System.exit(0);
    }

    static synchronized void print(Object... fields) {
        List<String> texts = new ArrayList<>();
        for (Object f : fields) {
            texts.add(String.valueOf(f).replace('\n', ' ').replace('\t', ' '));
        }
        System.out.println(String.join("\t", texts));
        System.out.flush();
    }

    /** The settings behind the first arguments, as this library names them. */
    private static Properties settings(String[] args, int from) {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[1]);
        p.put("client.id", "java");
        for (int i = from; i < args.length; i++) {
            String[] kv = args[i].split("=", 2);
            p.put(kv[0], kv[1]);
        }
        return p;
    }

    private static KafkaProducer<String, String> producer(String[] args, int from) {
        Properties p = settings(args, from);
        p.put("key.serializer", STRING + "Serializer");
        p.put("value.serializer", STRING + "Serializer");
        return new KafkaProducer<>(p);
    }

    private static KafkaConsumer<String, String> consumer(String[] args, int from) {
        Properties p = settings(args, from);
        p.put("key.deserializer", STRING + "Deserializer");
        p.put("value.deserializer", STRING + "Deserializer");
        p.put("auto.offset.reset", "earliest");
        return new KafkaConsumer<>(p);
    }

    private static void produce(String[] args) throws Exception {
        int count = Integer.parseInt(args[3]), keys = Integer.parseInt(args[4]);
        try (KafkaProducer<String, String> producer = producer(args, 5)) {
            List<ProducerRecord<String, String>> records = new ArrayList<>();
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                ProducerRecord<String, String> r = new ProducerRecord<>(args[2], "k" + i % keys, "java-" + i);
                records.add(r);
                sent.add(producer.send(r));
            }
            producer.flush();
            for (int i = 0; i < count; i++) {
                RecordMetadata m = sent.get(i).get();
                print("sent", m.partition(), m.offset(), records.get(i).key(), records.get(i).value());
            }
        }
    }

    /** poll has changed its argument, and all versions are to be compiled from here. */
    @SuppressWarnings("unchecked")
    private static ConsumerRecords<String, String> poll(KafkaConsumer<String, String> consumer) throws Exception {
        try {
            try {
                return (ConsumerRecords<String, String>) KafkaConsumer.class.getMethod("poll", Duration.class).invoke(consumer, Duration.ofMillis(200));
            } catch (NoSuchMethodException e) {
                return (ConsumerRecords<String, String>) KafkaConsumer.class.getMethod("poll", long.class).invoke(consumer, 200L);
            }
        } catch (java.lang.reflect.InvocationTargetException e) {
            throw (Exception) e.getCause();
        }
    }

    private static void consume(String[] args) throws Exception {
        String[] more = java.util.Arrays.copyOf(args, args.length + 1);
        more[args.length] = "group.id=" + args[3];
        KafkaConsumer<String, String> consumer = consumer(more, 4);
        AtomicBoolean stop = new AtomicBoolean();
        Thread input = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (IOException e) {
                // its end, too
            }
            stop.set(true);
            consumer.wakeup();
        });
        input.setDaemon(true);
        input.start();
        ConsumerRebalanceListener listener = new ConsumerRebalanceListener() {
            @Override public void onPartitionsRevoked(Collection<TopicPartition> gone) { print("revoked", numbers(gone)); }
            @Override public void onPartitionsAssigned(Collection<TopicPartition> come) { print("assigned", numbers(consumer.assignment())); }
        };
        if (args[2].startsWith("^")) {
            consumer.subscribe(Pattern.compile(args[2]), listener);
        } else {
            consumer.subscribe(Collections.singletonList(args[2]), listener);
        }
        try {
            while (!stop.get()) {
                for (ConsumerRecord<String, String> r : poll(consumer)) {
                    print("record", r.partition(), r.offset(), r.key(), r.value());
                }
            }
        } catch (WakeupException e) {
            // asked to stop
        } finally {
            consumer.close();
        }
    }

    private static String numbers(Collection<TopicPartition> partitions) {
        return partitions.stream().map(TopicPartition::partition).sorted().map(String::valueOf).collect(Collectors.joining(","));
    }

    private static void seek(String[] args) throws Exception {
        int first = Integer.parseInt(args[3]), others = Integer.parseInt(args[4]);
        try (KafkaConsumer<String, String> consumer = consumer(args, 5)) {
            List<TopicPartition> all = consumer.partitionsFor(args[2]).stream().map(p -> new TopicPartition(args[2], p.partition())).collect(Collectors.toList());
            TopicPartition zero = new TopicPartition(args[2], 0);
            consumer.assign(all);
            consumer.seekToBeginning(all);
            consumer.pause(Collections.singleton(zero));
            read(consumer, others);
            print("resumed");
            consumer.resume(Collections.singleton(zero));
            read(consumer, first);
            print("sought");
            consumer.seek(zero, 2);
            read(consumer, first - 2);
        }
    }

    private static void read(KafkaConsumer<String, String> consumer, int count) throws Exception {
        for (int n = 0; n < count; ) {
            for (ConsumerRecord<String, String> r : poll(consumer)) {
                print("record", r.partition(), r.offset(), r.key(), r.value());
                n++;
            }
        }
    }

    private static void admin(String[] args) throws Exception {
        String topic = args[2];
        try (AdminClient admin = AdminClient.create(settings(args, 4))) {
            Map<String, String> configs = new TreeMap<>();
            configs.put("retention.ms", "3600000");
            admin.createTopics(Collections.singleton(new NewTopic(topic, 3, (short) 1).configs(configs))).all().get();
            print("created", admin.listTopics().names().get().contains(topic));
            TopicDescription d = describe(admin, topic);
            print("described", d.partitions().size(), d.partitions().stream().allMatch(p -> p.leader() != null && !p.isr().isEmpty()));
            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            print("config", admin.describeConfigs(Collections.singleton(resource)).all().get().get(resource).get("retention.ms").value());
            offsets(admin, args[3]);
            admin.deleteTopics(Collections.singleton(topic)).all().get();
            print("deleted", !admin.listTopics().names().get().contains(topic));
        }
    }

    /** What it answers with has another name since 3.1, and the old one is gone in 4.0. */
    @SuppressWarnings("unchecked")
    private static TopicDescription describe(AdminClient admin, String topic) throws Exception {
        Object result = admin.describeTopics(Collections.singleton(topic));
        java.lang.reflect.Method all;
        try {
            all = result.getClass().getMethod("allTopicNames");
        } catch (NoSuchMethodException e) {
            all = result.getClass().getMethod("all");
        }
        return ((KafkaFuture<Map<String, TopicDescription>>) all.invoke(result)).get().get(topic);
    }

    /** Clients before 2.5 do not list offsets, so that is a class of its own. */
    private static void offsets(AdminClient admin, String topic) throws Exception {
        try {
            Class.forName("Offsets").getMethod("print", AdminClient.class, String.class).invoke(null, admin, topic);
        } catch (ClassNotFoundException e) {
            // too old
        }
    }

    private static void transaction(String[] args) {
        String[] more = java.util.Arrays.copyOf(args, args.length + 1);
        more[args.length] = "transactional.id=matrix";
        try (KafkaProducer<String, String> producer = producer(more, 3)) {
            producer.initTransactions();
            print("accepted");
        } catch (Exception e) {
            print("refused", e.getClass().getSimpleName());
        }
    }
}
