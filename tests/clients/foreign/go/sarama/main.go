// sarama, as an old and as a new client, through everything that an application does first.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"foreign/steps"

	"github.com/IBM/sarama"
)

type member struct {
	reading steps.Reading
	due     int
	leave   context.CancelFunc
}

func (*member) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*member) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (member *member) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		member.reading.Take(message.Topic, message.Partition, message.Offset)
		session.MarkMessage(message, "")
		if member.reading.Total == member.due {
			member.leave()
		}
	}
	return nil
}

func main() {
	steps.Version("github.com/IBM/sarama")
	for _, version := range []sarama.KafkaVersion{sarama.V2_1_0_0, sarama.MaxVersion} {
		run([]string{os.Args[1]}, version)
		steps.Done("everything as a client of " + version.String())
	}
}

func configured(version sarama.KafkaVersion) *sarama.Config {
	config := sarama.NewConfig()
	config.Version = version
	config.Producer.Return.Successes = true
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	return config
}

func run(brokers []string, version sarama.KafkaVersion) {
	topic, group := "sarama-"+version.String(), "sarama-"+version.String()
	config := configured(version)
	admin, err := sarama.NewClusterAdmin(brokers, config)
	steps.Must(err, "connect")
	// One partition: a group's claims are consumed concurrently, and Reading is not made for that.
	detail := &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}
	steps.Must(admin.CreateTopic(topic, detail, false), "create topic")

	codecs := []sarama.CompressionCodec{
		sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy, sarama.CompressionLZ4,
	}
	if version.IsAtLeast(sarama.V2_1_0_0) {
		codecs = append(codecs, sarama.CompressionZSTD)
	}
	for _, codec := range codecs {
		config.Producer.Compression = codec
		producer, err := sarama.NewSyncProducer(brokers, config)
		steps.Must(err, "producer")
		var messages []*sarama.ProducerMessage
		for number := 0; number < steps.Records; number++ {
			value := sarama.StringEncoder(fmt.Sprintf("value %d", number))
			messages = append(messages, &sarama.ProducerMessage{Topic: topic, Value: value})
		}
		steps.Must(producer.SendMessages(messages), "produce "+codec.String())
		steps.Must(producer.Close(), "close producer")
	}

	ctx, leave := context.WithTimeout(context.Background(), time.Minute)
	consumer, err := sarama.NewConsumerGroup(brokers, group, config)
	steps.Must(err, "group")
	member := &member{due: steps.Records * len(codecs), leave: leave}
	steps.Must(consumer.Consume(ctx, []string{topic}, member), "consume")
	steps.Must(consumer.Close(), "leave")
	offsets, err := admin.ListConsumerGroupOffsets(group, nil)
	steps.Must(err, "committed offsets")
	if committed := offsets.GetBlock(topic, 0).Offset; committed != int64(member.due) {
		steps.Must(fmt.Errorf("%d committed, %d read", committed, member.due), "committed offsets")
	}
	resource := sarama.ConfigResource{Type: sarama.TopicResource, Name: topic}
	_, err = admin.DescribeConfig(resource)
	steps.Must(err, "describe configs")
	steps.Must(admin.CreatePartitions(topic, 3, nil, false), "create partitions")
	steps.Must(admin.DeleteConsumerGroup(group), "delete group")
	steps.Must(admin.DeleteTopic(topic), "delete topic")
	steps.Must(admin.CreateTopic(topic, detail, false), "create again")
	steps.Must(admin.Close(), "close admin")
}
