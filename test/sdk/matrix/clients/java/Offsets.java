import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.clients.admin.AdminClient;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.common.TopicPartition;

/** What lists offsets; there since 2.5. */
public final class Offsets {
    public static void print(AdminClient admin, String topic) throws Exception {
        Matrix.print("offsets", sum(admin, topic, OffsetSpec.earliest()), sum(admin, topic, OffsetSpec.latest()));
    }

    private static long sum(AdminClient admin, String topic, OffsetSpec spec) throws Exception {
        Map<TopicPartition, OffsetSpec> asked = new HashMap<>();
        for (int p = 0; p < 6; p++) {
            asked.put(new TopicPartition(topic, p), spec);
        }
        return admin.listOffsets(asked).all().get().values().stream().mapToLong(o -> o.offset()).sum();
    }
}
