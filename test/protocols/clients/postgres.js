// PostgreSQL as a Node program uses it: the library pg, in JavaScript throughout.
'use strict';
const assert = require('node:assert');
const { Client } = require('pg');

async function main() {
  const [host, port] = process.argv[2].split(':');
  const client = new Client({ host, port: Number(port), user: 'postgres', database: 'postgres' });
  await client.connect();
  const did = [];
  const peer = (await client.query('select host(inet_client_addr()) as peer')).rows[0].peer;
  await client.query('create temporary table orders (id bigint primary key, item text)');
  for (let i = 0; i < 100; i++) {
    await client.query('insert into orders values ($1, $2)', [i, 'x'.repeat(i)]);
  }
  const { rows } = await client.query('select sum(length(item)) as sum from orders where id < $1', [100]);
  assert.strictEqual(rows[0].sum, '4950');
  did.push('query');
  const notified = new Promise((resolve) => client.once('notification', resolve));
  await client.query('listen news');
  await client.query("select pg_notify('news', 'hello')");
  assert.strictEqual((await notified).payload, 'hello');
  did.push('listen and notify');
  await client.end();
  console.log(JSON.stringify({ peer, did }));
}

main().catch((err) => {
  console.error(err);
  process.exit(1);
});
