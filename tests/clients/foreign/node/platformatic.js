// @platformatic/kafka through everything that an application does first.
import { Admin, Consumer, Producer, stringDeserializers, stringSerializers } from '@platformatic/kafka'
import { PARTITIONS, RECORDS, Reading, done, run, version } from './steps.js'

const topic = 'platformatic'

await run(async (broker) => {
  version('@platformatic/kafka')
  const options = { clientId: topic, bootstrapBrokers: [broker] }
  const admin = new Admin(options)
  await admin.createTopics({ topics: [topic], partitions: PARTITIONS, replicas: 1 })

  const producer = new Producer({ ...options, serializers: stringSerializers, idempotent: true })
  for (const compression of ['none', 'gzip']) {
    for (let start = 0; start < RECORDS; start += 1000) {
      const messages = Array.from({ length: 1000 }, (_, n) => ({
        topic, key: String(start + n), value: `value ${start + n}`
      }))
      await producer.send({ messages, compression })
    }
  }
  await producer.close()
  done('produce plain and gzip, idempotent')

  const consumer = new Consumer({ ...options, groupId: topic, deserializers: stringDeserializers })
  const stream = await consumer.consume({ topics: [topic], mode: 'earliest', autocommit: true })
  const reading = new Reading()
  for await (const message of stream) {
    reading.take(message.topic, message.partition, message.offset)
    if (reading.total === 2 * RECORDS) break
  }
  await consumer.close(true)
  done('read back in a group')

  await admin.listGroups()
  await admin.describeGroups({ groups: [topic] })
  await admin.deleteGroups({ groups: [topic] })
  for (let round = 0; round < 2; round++) {
    await admin.deleteTopics({ topics: [topic] })
    await admin.createTopics({ topics: [topic], partitions: 1, replicas: 1 })
  }
  done('delete and create again')
  await admin.close()
})
