// franz-go through everything that an application does first.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"foreign/steps"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	steps.Version("github.com/twmb/franz-go")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	seeds := kgo.SeedBrokers(os.Args[1])
	client, err := kgo.NewClient(seeds)
	steps.Must(err, "connect")
	defer client.Close()
	admin := kadm.NewClient(client)

	topics := produce(ctx, seeds, admin)
	consume(ctx, seeds, topics)
	administer(ctx, admin, topics[0])
}

func produce(ctx context.Context, seeds kgo.Opt, admin *kadm.Client) []string {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	var topics []string
	for name, codec := range codecs {
		topic := "franz-go-" + name
		_, err := admin.CreateTopic(ctx, steps.Partitions, 1, nil, topic)
		steps.Must(err, "create topic")
		producer, err := kgo.NewClient(seeds, kgo.ProducerBatchCompression(codec))
		steps.Must(err, "producer")
		for number := 0; number < steps.Records; number++ {
			record := &kgo.Record{
				Topic: topic,
				Key:   []byte(fmt.Sprint(number)), Value: []byte(fmt.Sprintf("value %d", number)),
				Headers: []kgo.RecordHeader{{Key: "codec", Value: []byte(name)}},
			}
			producer.Produce(ctx, record, func(_ *kgo.Record, err error) { steps.Must(err, "produce "+name) })
		}
		steps.Must(producer.Flush(ctx), "produce "+name)
		producer.Close()
		topics = append(topics, topic)
	}
	steps.Done("produce with every codec")
	return topics
}

func consume(ctx context.Context, seeds kgo.Opt, topics []string) {
	consumer, err := kgo.NewClient(
		seeds, kgo.ConsumerGroup("franz-go"), kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	steps.Must(err, "consumer")
	reading := steps.Reading{}
	for reading.Total < steps.Records*len(topics) {
		fetches := consumer.PollFetches(ctx)
		for _, fault := range fetches.Errors() {
			steps.Must(fault.Err, "fetch")
		}
		fetches.EachRecord(func(record *kgo.Record) {
			reading.Take(record.Topic, record.Partition, record.Offset)
		})
	}
	steps.Done("read back in a group")
	steps.Must(consumer.CommitUncommittedOffsets(ctx), "commit")
	admin := kadm.NewClient(consumer)
	lags, err := admin.Lag(ctx, "franz-go")
	steps.Must(err, "lag")
	if total := lags["franz-go"].Lag.Total(); total != 0 {
		steps.Must(fmt.Errorf("lag of %d", total), "commit")
	}
	steps.Done("commit offsets")
	consumer.Close()
}

func administer(ctx context.Context, admin *kadm.Client, topic string) {
	ends, err := admin.ListEndOffsets(ctx, topic)
	steps.Must(err, "offsets")
	steps.Must(ends.Error(), "offsets")
	byTime, err := admin.ListOffsetsAfterMilli(ctx, time.Now().Add(-time.Hour).UnixMilli(), topic)
	steps.Must(err, "offsets by timestamp")
	steps.Must(byTime.Error(), "offsets by timestamp")
	steps.Done("offsets by timestamp")
	configs, err := admin.DescribeTopicConfigs(ctx, topic)
	steps.Must(err, "describe configs")
	steps.Must(configs[0].Err, "describe configs")
	age := "3600000"
	alter := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &age}}
	altered, err := admin.AlterTopicConfigs(ctx, alter, topic)
	steps.Must(err, "alter configs")
	steps.Must(altered[0].Err, "alter configs")
	steps.Done("describe and alter configs")
	grown, err := admin.CreatePartitions(ctx, 2, topic)
	steps.Must(err, "create partitions")
	steps.Must(grown.Error(), "create partitions")
	truncated, err := admin.DeleteRecords(ctx, ends.Offsets())
	steps.Must(err, "delete records")
	steps.Must(truncated.Error(), "delete records")
	steps.Done("create partitions, delete records")
	groups, err := admin.DeleteGroups(ctx, "franz-go")
	steps.Must(err, "delete group")
	steps.Must(groups.Error(), "delete group")
	for range 2 {
		deleted, err := admin.DeleteTopics(ctx, topic)
		steps.Must(err, "delete topic")
		steps.Must(deleted.Error(), "delete topic")
		_, err = admin.CreateTopic(ctx, 1, 1, nil, topic)
		steps.Must(err, "create again")
	}
	steps.Done("delete and create again")
}
