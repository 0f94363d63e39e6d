import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.stream.Collectors;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.AppInfoParser;

/** The Java client through everything that an application does first. */
public final class Main {
    private static final int RECORDS = 20_000;
    private static final int PARTITIONS = 6;
    private static final String TOPIC = "java";

    public static void main(String[] arguments) {
        System.out.println("version " + AppInfoParser.getVersion());
        Properties properties = new Properties();
        properties.put("bootstrap.servers", arguments[0]);
        try (Admin admin = Admin.create(properties)) {
            admin.createTopics(List.of(new NewTopic(TOPIC, PARTITIONS, (short) 1))).all().get();
            produce(properties);
            consume(properties);
            administer(admin);
        } catch (Throwable fault) {
            System.out.println("FAIL " + fault);
            fault.printStackTrace();
            System.exit(1);
        }
        System.exit(0);
    }

    private static void done(String step) {
        System.out.println("ok " + step);
    }

    private static void produce(Properties common) throws Exception {
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            Properties properties = new Properties();
            properties.putAll(common);
            properties.put("compression.type", codec);
            var text = new StringSerializer();
            Throwable[] fault = {null};
            try (var producer = new KafkaProducer<String, String>(properties, text, text)) {
                for (int number = 0; number < RECORDS; number++) {
                    var record = new ProducerRecord<>(TOPIC, "" + number, "value " + number);
                    record.headers().add("codec", codec.getBytes());
                    producer.send(record, (metadata, problem) -> {
                        if (problem != null) fault[0] = problem;
                    });
                }
                producer.flush();
            }
            if (fault[0] != null) throw new IllegalStateException(codec, fault[0]);
        }
        done("produce with every codec, idempotent");
    }

    private static void consume(Properties common) {
        Properties properties = new Properties();
        properties.putAll(common);
        properties.put("group.id", TOPIC);
        properties.put("auto.offset.reset", "earliest");
        properties.put("isolation.level", "read_committed");
        Map<Integer, Long> next = new HashMap<>();
        int total = 0;
        var text = new StringDeserializer();
        try (var consumer = new KafkaConsumer<String, String>(properties, text, text)) {
            consumer.subscribe(List.of(TOPIC));
            while (total < 5 * RECORDS) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1))) {
                    long due = next.getOrDefault(record.partition(), 0L);
                    if (record.offset() != due) {
                        throw new IllegalStateException(record + " where " + due + " was due");
                    }
                    next.put(record.partition(), due + 1);
                    total++;
                }
            }
            consumer.commitSync();
            done("read back in a group, commit");
            TopicPartition first = new TopicPartition(TOPIC, 0);
            long hourAgo = System.currentTimeMillis() - 3_600_000;
            long found = consumer.offsetsForTimes(Map.of(first, hourAgo)).get(first).offset();
            if (found != 0) throw new IllegalStateException("offset by timestamp is " + found);
            done("offsets by timestamp");
        }
    }

    private static void administer(Admin admin) throws Exception {
        admin.describeCluster().nodes().get();
        admin.describeTopics(List.of(TOPIC)).allTopicNames().get();
        admin.describeProducers(List.of(new TopicPartition(TOPIC, 0))).all().get();
        int node = admin.describeCluster().controller().get().id();
        admin.describeLogDirs(List.of(node)).allDescriptions().get();
        var groups = admin.describeConsumerGroups(List.of(TOPIC)).all().get();
        admin.listGroups().all().get();
        if (!groups.containsKey(TOPIC)) throw new IllegalStateException("" + groups);
        List<TopicPartition> places = admin.describeTopics(List.of(TOPIC)).allTopicNames().get()
            .get(TOPIC).partitions().stream()
            .map(place -> new TopicPartition(TOPIC, place.partition())).toList();
        var committed = admin.listConsumerGroupOffsets(TOPIC).partitionsToOffsetAndMetadata().get();
        var ends = admin.listOffsets(places.stream().collect(
            Collectors.toMap(place -> place, place -> OffsetSpec.latest()))).all().get();
        for (TopicPartition place : places) {
            if (ends.get(place).offset() != committed.get(place).offset()) {
                throw new IllegalStateException(place + ": " + committed + " of " + ends);
            }
        }
        done("describe cluster, log dirs, producers, groups");
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, TOPIC);
        admin.describeConfigs(List.of(resource)).all().get();
        Collection<AlterConfigOp> change = List.of(new AlterConfigOp(
            new ConfigEntry("retention.ms", "3600000"), AlterConfigOp.OpType.SET));
        admin.incrementalAlterConfigs(Map.of(resource, change)).all().get();
        admin.createPartitions(Map.of(TOPIC, NewPartitions.increaseTo(PARTITIONS + 2))).all().get();
        admin.deleteRecords(Map.of(places.get(0), RecordsToDelete.beforeOffset(1))).all().get();
        done("alter configs, create partitions, delete records");
        admin.deleteConsumerGroupOffsets(TOPIC, java.util.Set.of(places.get(1))).all().get();
        admin.deleteConsumerGroups(List.of(TOPIC)).all().get();
        for (int round = 0; round < 2; round++) {
            admin.deleteTopics(List.of(TOPIC)).all().get();
            admin.createTopics(List.of(new NewTopic(TOPIC, 1, (short) 1))).all().get();
        }
        done("delete and create again");
    }
}
