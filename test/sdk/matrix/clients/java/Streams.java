import java.io.IOException;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.AppInfoParser;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;

/**
 * Kafka Streams: counts the records of each key, by a repartition and a changelog topic.
 *
 *   Streams version
 *   Streams count BOOTSTRAP FROM TO APPLICATION DIRECTORY [SETTING=VALUE ...]   ends with its input
 */
public final class Streams {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("version")) {
            print("version", AppInfoParser.getVersion());
        } else {
            count(args);
        }
        print("done");
        System.exit(0);
    }

    private static synchronized void print(String... fields) {
        System.out.println(String.join("\t", fields));
        System.out.flush();
    }

    private static void count(String[] args) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[1]);
        p.put("application.id", args[4]);
        p.put("state.dir", args[5]);
        p.put("default.key.serde", Serdes.StringSerde.class.getName());
        p.put("default.value.serde", Serdes.StringSerde.class.getName());
        for (int i = 6; i < args.length; i++) {
            String[] kv = args[i].split("=", 2);
            p.put(kv[0], kv[1]);
        }
        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, String> in = builder.stream(args[2], Consumed.with(Serdes.String(), Serdes.String()));
        in.selectKey((k, v) -> "count-" + k).groupByKey(Grouped.with(Serdes.String(), Serdes.String())).count()
            .toStream().mapValues(String::valueOf).to(args[3], Produced.with(Serdes.String(), Serdes.String()));
        KafkaStreams streams = new KafkaStreams(builder.build(), p);
        CountDownLatch end = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(e -> {
            Throwable cause = e;
            while (cause.getCause() != null) {
                cause = cause.getCause();
            }
            print("refused", cause.getClass().getSimpleName(), String.valueOf(cause.getMessage()).replace('\n', ' '));
            end.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.setStateListener((now, before) -> print("state", now.name()));
        Thread input = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (IOException e) {
                // its end, too
            }
            end.countDown();
        });
        input.setDaemon(true);
        input.start();
        streams.start();
        end.await();
        streams.close();
    }
}
