import java.io.IOException;
import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;

/**
 * kafka-clients with their default configuration: idempotent, acks=all, no end of
 * retries within delivery.timeout.ms (2 min). The lines are those of clients.go.
 *
 *   Continuity produce BOOTSTRAP TOPIC NAME KEYS PER_SECOND
 *   Continuity consume BOOTSTRAP TOPIC GROUP
 */
public final class Continuity {
    private static final String STRING = "org.apache.kafka.common.serialization.String";
    private static final CountDownLatch inputEnded = new CountDownLatch(1);

    public static void main(String[] args) throws Exception {
        Thread input = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (IOException e) {
                // its end, too
            }
            inputEnded.countDown();
        });
        input.setDaemon(true);
        input.start();
        switch (args[0]) {
            case "produce" -> produce(args[1], args[2], args[3], Integer.parseInt(args[4]), Integer.parseInt(args[5]));
            case "consume" -> consume(args[1], args[2], args[3]);
            default -> throw new IllegalArgumentException(args[0]);
        }
        print("done");
    }

    private static synchronized void print(Object... fields) {
        System.out.println(Stream.of(fields).map(f -> String.valueOf(f).replaceAll("[\t\n]", " ")).collect(Collectors.joining("\t")));
        System.out.flush();
    }

    private static Properties settings(String bootstrap, String clientID) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("client.id", clientID);
        return p;
    }

    private static void produce(String bootstrap, String topic, String name, int keys, int perSecond) throws Exception {
        Properties p = settings(bootstrap, name);
        p.put("key.serializer", STRING + "Serializer");
        p.put("value.serializer", STRING + "Serializer");
        int[] last = new int[keys];
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(p)) {
            for (int i = 0; !inputEnded.await(1000 / perSecond, TimeUnit.MILLISECONDS); i++) {
                String key = "k" + i % keys;
                String value = name + "/" + key + "/" + ++last[i % keys];
                long begin = System.nanoTime();
                producer.send(new ProducerRecord<>(topic, key, value), (m, e) -> {
                    if (e != null) {
                        print("failed", value, e);
                    } else {
                        print("sent", m.partition(), m.offset(), key, value, (System.nanoTime() - begin) / 1000);
                    }
                });
            }
        }
    }

    private static void consume(String bootstrap, String topic, String group) throws Exception {
        Properties p = settings(bootstrap, "java-member");
        p.put("key.deserializer", STRING + "Deserializer");
        p.put("value.deserializer", STRING + "Deserializer");
        p.put("group.id", group);
        p.put("auto.offset.reset", "earliest");
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(p)) {
            consumer.subscribe(List.of(topic), new ConsumerRebalanceListener() {
                @Override public void onPartitionsRevoked(Collection<TopicPartition> gone) { print("revoked", numbers(gone)); }
                @Override public void onPartitionsLost(Collection<TopicPartition> gone) { print("lost", numbers(gone)); }
                @Override public void onPartitionsAssigned(Collection<TopicPartition> come) { print("assigned", numbers(come)); }
            });
            while (inputEnded.getCount() > 0) {
                try {
                    for (ConsumerRecord<String, String> r : consumer.poll(Duration.ofMillis(500))) {
                        print("record", r.partition(), r.offset(), r.key(), r.value());
                    }
                } catch (WakeupException e) {
                    return;
                } catch (Exception e) {
                    print("error", e);
                    inputEnded.await(1, TimeUnit.SECONDS);
                }
            }
        }
    }

    private static String numbers(Collection<TopicPartition> partitions) {
        return partitions.stream().map(TopicPartition::partition).sorted().map(String::valueOf).collect(Collectors.joining(","));
    }
}
