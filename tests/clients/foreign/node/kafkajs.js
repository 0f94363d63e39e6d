// kafkajs through everything that an application does first.
import kafkajs from 'kafkajs'
import { PARTITIONS, RECORDS, Reading, done, run, version } from './steps.js'

const { CompressionTypes, Kafka, logLevel } = kafkajs
const topic = 'kafkajs'

async function produce (kafka) {
  const producer = kafka.producer({ idempotent: true })
  await producer.connect()
  // kafkajs brings gzip only; other codecs are plugins.
  for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
    for (let start = 0; start < RECORDS; start += 1000) {
      const messages = Array.from({ length: 1000 }, (_, n) => ({
        key: String(start + n), value: `value ${start + n}`, headers: { codec: String(compression) }
      }))
      await producer.send({ topic, compression, messages })
    }
  }
  await producer.disconnect()
  done('produce plain and gzip, idempotent')
}

async function consume (kafka) {
  const consumer = kafka.consumer({ groupId: topic })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  const reading = new Reading()
  await new Promise((resolve, reject) => {
    consumer.run({
      eachMessage: async ({ partition, message }) => {
        try {
          reading.take(topic, partition, message.offset)
        } catch (error) {
          reject(error)
        }
        if (reading.total === 2 * RECORDS) resolve()
      }
    }).catch(reject)
  })
  await consumer.disconnect() // commits
  done('read back in a group')
}

async function administer (admin) {
  const ends = await admin.fetchTopicOffsets(topic)
  const [committed] = await admin.fetchOffsets({ groupId: topic, topics: [topic] })
  for (const { partition, offset } of committed.partitions) {
    const end = ends.find((place) => place.partition === partition).high
    if (offset !== end) throw new Error(`${topic}-${partition}: ${offset} committed of ${end}`)
  }
  done('committed offsets')
  await admin.fetchTopicOffsetsByTimestamp(topic, Date.now() - 60000)
  await admin.describeGroups([topic])
  await admin.listGroups()
  await admin.describeCluster()
  const resource = { type: 2, name: topic }
  await admin.describeConfigs({ includeSynonyms: false, resources: [resource] })
  const configEntries = [{ name: 'retention.ms', value: '3600000' }]
  await admin.alterConfigs({ validateOnly: false, resources: [{ ...resource, configEntries }] })
  await admin.createPartitions({ topicPartitions: [{ topic, count: PARTITIONS + 2 }] })
  const partitions = [{ partition: 0, offset: '1' }]
  await admin.setOffsets({ groupId: topic, topic, partitions })
  await admin.deleteTopicRecords({ topic, partitions })
  done('describe, alter, grow, truncate, reset offsets')
  await admin.deleteGroups([topic])
  for (let round = 0; round < 2; round++) {
    await admin.deleteTopics({ topics: [topic] })
    await admin.createTopics({ topics: [{ topic, numPartitions: 1 }] })
  }
  done('delete and create again')
}

await run(async (broker) => {
  version('kafkajs')
  const kafka = new Kafka({ clientId: topic, brokers: [broker], logLevel: logLevel.NOTHING })
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic, numPartitions: PARTITIONS }] })
  await produce(kafka)
  await consume(kafka)
  await administer(admin)
  await admin.disconnect()
})
