// Publish a notification and wait for its final result.
//
//   node publish.mjs AMQP_URL NOTIFICATION.json [PREFIX]
//
// Prints every result as one line of JSON; exit status 0 if the final one is accepted or handed over.
import { readFile } from 'node:fs/promises';
import amqp from 'amqplib';

const [url, file, prefix = 'postlane'] = process.argv.slice(2);
const body = await readFile(file);
const notification = JSON.parse(body);

const connection = await amqp.connect(url);
const channel = await connection.createConfirmChannel();
channel.on('return', () => { throw new Error('the exchange leads nowhere: is the topology in place?'); });

// Direct reply-to: results come back over this channel and need no queue and no right of ours.
const replies = 'amq.rabbitmq.reply-to';
const final = new Promise((resolve) => {
  channel.consume(replies, (message) => {
    const result = JSON.parse(message.content);
    if (result.notification_id !== notification.id) return;
    console.log(JSON.stringify(result));
    if (result.final) resolve(result);
  }, { noAck: true });
});

channel.publish(`${prefix}.notifications`, `t.${notification.tenant}`, body, {
  contentType: 'application/json',
  deliveryMode: 2,
  mandatory: true,
  messageId: notification.id,
  timestamp: Math.floor(Date.now() / 1000),
  userId: decodeURIComponent(new URL(url).username || 'guest'),
  correlationId: 'from-node',
  replyTo: replies,
});
await channel.waitForConfirms(); // only now has the broker taken it

const { status } = await final;
await connection.close();
process.exit(['accepted', 'handed_over'].includes(status) ? 0 : 1);
