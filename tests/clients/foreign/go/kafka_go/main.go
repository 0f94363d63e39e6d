// segmentio/kafka-go through everything that an application does first.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"foreign/steps"

	"github.com/segmentio/kafka-go"
)

func main() {
	steps.Version("github.com/segmentio/kafka-go")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	broker, topic := os.Args[1], "kafka-go"
	connection, err := kafka.Dial("tcp", broker)
	steps.Must(err, "connect")
	config := kafka.TopicConfig{Topic: topic, NumPartitions: steps.Partitions, ReplicationFactor: 1}
	steps.Must(connection.CreateTopics(config), "create topic")

	codecs := []kafka.Compression{0, kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd}
	for _, codec := range codecs {
		writer := &kafka.Writer{
			Addr: kafka.TCP(broker), Topic: topic, Balancer: &kafka.Hash{}, Compression: codec,
			RequiredAcks: kafka.RequireAll, BatchTimeout: 10 * time.Millisecond, BatchSize: 1000,
		}
		var messages []kafka.Message
		for number := 0; number < steps.Records; number++ {
			messages = append(messages, kafka.Message{
				Key: []byte(fmt.Sprint(number)), Value: []byte(fmt.Sprintf("value %d", number)),
			})
		}
		steps.Must(writer.WriteMessages(ctx, messages...), "produce "+codec.String())
		steps.Must(writer.Close(), "close writer")
	}
	steps.Done("produce with every codec")

	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{broker}, GroupID: "kafka-go", Topic: topic, StartOffset: kafka.FirstOffset,
	})
	reading := steps.Reading{}
	for reading.Total < steps.Records*len(codecs) {
		message, err := reader.FetchMessage(ctx)
		steps.Must(err, "read")
		reading.Take(message.Topic, int32(message.Partition), message.Offset)
		if reading.Total == steps.Records*len(codecs) {
			steps.Must(reader.CommitMessages(ctx, message), "commit")
		}
	}
	steps.Must(reader.Close(), "leave")
	steps.Done("read back in a group, commit")
	for range 2 {
		steps.Must(connection.DeleteTopics(topic), "delete topic")
		steps.Must(connection.CreateTopics(config), "create again")
	}
	steps.Done("delete and create again")
}
