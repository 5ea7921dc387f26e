import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.WakeupException;

/**
 * kafka-clients with their default configuration. What happens is printed, one
 * event in a line, fields separated by tabs.
 *
 *   Sdk produce BOOTSTRAP TOPIC COUNT KEYS
 *   Sdk consume BOOTSTRAP TOPIC GROUP [SETTING=VALUE ...]   ends with its input
 *   Sdk admin BOOTSTRAP TOPIC
 *   Sdk transaction BOOTSTRAP TOPIC
 */
public final class Sdk {
    private static final String STRING = "org.apache.kafka.common.serialization.String";

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "produce" -> produce(args[1], args[2], Integer.parseInt(args[3]), Integer.parseInt(args[4]));
            case "consume" -> consume(args);
            case "admin" -> admin(args[1], args[2]);
            case "transaction" -> transaction(args[1], args[2]);
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    private static synchronized void print(Object... fields) {
        List<String> texts = new ArrayList<>();
        for (Object f : fields) {
            texts.add(String.valueOf(f));
        }
        System.out.println(String.join("\t", texts));
        System.out.flush();
    }

    private static Properties settings(String bootstrap) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("client.id", "java");
        return p;
    }

    private static Properties producerSettings(String bootstrap) {
        Properties p = settings(bootstrap);
        p.put("key.serializer", STRING + "Serializer");
        p.put("value.serializer", STRING + "Serializer");
        return p;
    }

    private static void produce(String bootstrap, String topic, int count, int keys) throws Exception {
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(producerSettings(bootstrap))) {
            List<ProducerRecord<String, String>> records = new ArrayList<>();
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                ProducerRecord<String, String> r = new ProducerRecord<>(topic, "k" + i % keys, "java-" + i);
                records.add(r);
                sent.add(producer.send(r));
            }
            producer.flush();
            for (int i = 0; i < count; i++) {
                RecordMetadata m = sent.get(i).get();
                print("sent", m.partition(), m.offset(), records.get(i).key(), records.get(i).value());
            }
        }
        print("done");
    }

    private static void consume(String[] args) throws Exception {
        Properties p = settings(args[1]);
        p.put("key.deserializer", STRING + "Deserializer");
        p.put("value.deserializer", STRING + "Deserializer");
        p.put("group.id", args[3]);
        p.put("auto.offset.reset", "earliest");
        for (int i = 4; i < args.length; i++) {
            String[] kv = args[i].split("=", 2);
            p.put(kv[0], kv[1]);
        }
        KafkaConsumer<String, String> consumer = new KafkaConsumer<>(p);
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
        consumer.subscribe(List.of(args[2]), new ConsumerRebalanceListener() {
            @Override public void onPartitionsRevoked(Collection<TopicPartition> gone) { print("revoked", numbers(gone)); }
            @Override public void onPartitionsAssigned(Collection<TopicPartition> come) { print("assigned", numbers(consumer.assignment())); }
        });
        try {
            while (!stop.get()) {
                for (ConsumerRecord<String, String> r : consumer.poll(Duration.ofSeconds(1))) {
                    print("record", r.partition(), r.offset(), r.key(), r.value());
                }
            }
        } catch (WakeupException e) {
            // asked to stop
        } finally {
            consumer.close();
        }
        print("done");
    }

    private static String numbers(Collection<TopicPartition> partitions) {
        return partitions.stream().map(p -> p.partition()).sorted().map(String::valueOf).collect(Collectors.joining(","));
    }

    private static void admin(String bootstrap, String topic) throws Exception {
        try (Admin admin = Admin.create(settings(bootstrap))) {
            var cluster = admin.describeCluster();
            print("cluster", cluster.clusterId().get(), cluster.nodes().get().size(), cluster.controller().get() != null);
            Map<String, String> configs = Map.of("retention.ms", "3600000", "cleanup.policy", "delete");
            var created = admin.createTopics(List.of(new NewTopic(topic, Optional.of(3), Optional.empty()).configs(configs)));
            created.all().get();
            print("created", created.numPartitions(topic).get(), !created.topicId(topic).get().equals(org.apache.kafka.common.Uuid.ZERO_UUID));
            print("listed", admin.listTopics().names().get().contains(topic));
            describe(admin, topic);

            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            AlterConfigOp set = new AlterConfigOp(new ConfigEntry("max.message.bytes", "12345"), AlterConfigOp.OpType.SET);
            AlterConfigOp append = new AlterConfigOp(new ConfigEntry("cleanup.policy", "compact"), AlterConfigOp.OpType.APPEND);
            admin.incrementalAlterConfigs(Map.of(resource, List.of(set, append))).all().get();
            Config config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
            Set<String> policies = new TreeSet<>(List.of(config.get("cleanup.policy").value().split(",")));
            print("config", config.get("retention.ms").value(), config.get("max.message.bytes").value(), String.join(",", policies));

            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
            describe(admin, topic);

            Map<TopicPartition, OffsetSpec> latest = new HashMap<>();
            latest.put(new TopicPartition(topic, 4), OffsetSpec.latest());
            print("latest", admin.listOffsets(latest).partitionResult(new TopicPartition(topic, 4)).get().offset());
            TopicPartition first = new TopicPartition(topic, 0);
            print("deleted-records", admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(0))).lowWatermarks().get(first).get().lowWatermark());
            print("groups", admin.listGroups().valid().get().size() >= 0);

            admin.deleteTopics(List.of(topic)).all().get();
            print("listed", admin.listTopics().names().get().contains(topic));
        }
        print("done");
    }

    private static void describe(Admin admin, String topic) throws Exception {
        TopicDescription d = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
        boolean led = d.partitions().stream().allMatch(p -> p.leader() != null && !p.isr().isEmpty());
        print("described", d.partitions().size(), led);
    }

    /** A transactional id must be refused at once and for good. */
    private static void transaction(String bootstrap, String topic) {
        Properties p = producerSettings(bootstrap);
        p.put("transactional.id", "t1");
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(p)) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(topic, "k", "in a transaction"));
            producer.commitTransaction();
            print("accepted");
        } catch (Exception e) {
            print("refused", e.getClass().getSimpleName());
        }
        print("done");
    }
}
