// The cases of README.md with the Node driver.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const readline = require('node:readline');
const cassandra = require('cassandra-driver');

const { types, policies } = cassandra;
const { Long, BigDecimal, Integer, InetAddress, LocalDate, LocalTime, TimeUuid, Tuple, Uuid, Duration } = types;

function say(line) {
  console.log(JSON.stringify(line));
}

// CountingRetryPolicy is the driver's own policy; it counts how often it said to try again.
class CountingRetryPolicy extends policies.retry.RetryPolicy {
  retries = 0;

  counted(decision) {
    if (decision.decision === policies.retry.RetryPolicy.retryDecision.retry) {
      this.retries++;
    }
    return decision;
  }

  onUnavailable(...a) { return this.counted(super.onUnavailable(...a)); }
  onReadTimeout(...a) { return this.counted(super.onReadTimeout(...a)); }
  onWriteTimeout(...a) { return this.counted(super.onWriteTimeout(...a)); }
  onRequestError(...a) { return this.counted(super.onRequestError(...a)); }
}

class Program {
  constructor(job, ended) {
    this.job = job;
    this.ended = ended;
    this.policy = new CountingRetryPolicy();
    this.client = new cassandra.Client({
      contactPoints: job.contacts,
      localDataCenter: job.datacenter,
      keyspace: job.keyspace,
      credentials: { username: job.username, password: job.password },
      protocolOptions: { port: job.port, ...(job.version ? { maxVersion: job.version } : {}) },
      policies: { retry: this.policy },
      pooling: { warmup: true },
      socketOptions: { connectTimeout: 30000, readTimeout: 30000 },
      queryOptions: { consistency: types.consistencies.localOne },
      sslOptions: job.tls ? {
        ca: [fs.readFileSync(job.tls.ca)],
        ...(job.tls.cert ? { cert: fs.readFileSync(job.tls.cert), key: fs.readFileSync(job.tls.key) } : {}),
        checkServerIdentity: () => undefined, // the authority is checked, the name is not
      } : undefined,
    });
  }

  prepared(query, params, options) {
    return this.client.execute(query, params, { prepare: true, ...options });
  }

  async connect() {
    const result = await this.client.execute('SELECT key FROM system.local');
    assert.strictEqual(result.rowLength, 1);
    return { version: this.client.controlConnection.protocolVersion, hosts: this.client.hosts.length };
  }

  async types() {
    const values = {
      c_ascii: 'ascii', c_bigint: Long.MIN_VALUE, c_blob: Buffer.from([0, 255, 128]), c_boolean: true,
      c_date: LocalDate.fromString('1969-02-03'), c_decimal: BigDecimal.fromString('-12345678901234567890.000123'),
      c_double: 1e-300, c_duration: new Duration(-14, -3, Long.fromString('-7200000000001')), c_float: -0.5,
      c_inet: InetAddress.fromString('2001:db8::1'), c_int: -(2 ** 31), c_smallint: -(2 ** 15), c_text: 'tëxt €',
      c_time: LocalTime.fromString('23:59:59.999999999'), c_timestamp: new Date('2026-01-02T03:04:05.678Z'),
      c_timeuuid: TimeUuid.now(), c_tinyint: -128, c_uuid: Uuid.random(), c_varchar: '',
      c_varint: Integer.fromString('1267650600228229401496703205376'), c_list: [3, 1, 2], c_set: ['a', 'b'], c_map: { k: Long.fromString('1099511627776') },
      c_tuple: new Tuple(1, null, 0.25), c_udt: { first: 7, second: 'seven' }, c_nested: { k: [1, 2] },
    };
    const names = Object.keys(values);
    const insert = `INSERT INTO types (run, ${names.join(', ')}) VALUES (?${', ?'.repeat(names.length)})`;
    const select = `SELECT ${names.join(', ')} FROM types WHERE run = ?`;
    await this.prepared(insert, [this.job.run, ...Object.values(values)]);
    const rows = [await this.prepared(select, [this.job.run]), await this.client.execute(select, [this.job.run])].map(r => r.first());
    for (const name of names) {
      for (const row of rows) {
        const want = values[name];
        const got = row[name];
        if (typeof want.equals === 'function') {
          assert(want.equals(got), `${name}: got ${got}, want ${want}`);
        } else if (want instanceof Tuple) {
          assert.deepStrictEqual(got.elements.map(e => e ?? null), want.elements, name);
        } else {
          assert.deepEqual(got, want, name);
        }
      }
    }
    await this.prepared(insert, [this.job.run + ' empty', ...names.map(() => null)]);
    assert.deepStrictEqual((await this.prepared(select, [this.job.run + ' empty'])).first().values(), names.map(() => null), 'nulls');
  }

  async paging() {
    const want = [...Array(250).keys()].map(i => [i, `value ${i}`]);
    await Promise.all(want.map(([i, value]) => this.prepared('INSERT INTO items (run, id, value) VALUES (?, ?, ?)', [this.job.run, i, value])));
    const select = 'SELECT id, value FROM items WHERE run = ?';
    const got = [];
    for await (const row of await this.prepared(select, [this.job.run], { fetchSize: 20 })) {
      got.push([row.id, row.value]);
    }
    assert.deepStrictEqual(got, want, 'all pages');
    const first = await this.prepared(select, [this.job.run], { fetchSize: 20 });
    assert.deepStrictEqual(first.rows.map(r => r.id), want.slice(0, 20).map(w => w[0]), 'first page');
    const second = await this.prepared(select, [this.job.run], { fetchSize: 20, pageState: first.pageState });
    assert.deepStrictEqual(second.rows.map(r => r.id), want.slice(20, 40).map(w => w[0]), 'page of a kept state');
  }

  async batches() {
    // A batch of this driver is prepared or not as a whole.
    const run = this.job.run + ' batch';
    const want = [];
    let id = 0;
    for (const logged of [true, false]) {
      for (const prepare of [true, false]) {
        const queries = [id, id + 1].map(i => ({ query: 'INSERT INTO items (run, id, value) VALUES (?, ?, ?)', params: [run, prepare ? i : String(i), `${prepare}`] }));
        if (!prepare) {
          for (const q of queries) {
            q.query = `INSERT INTO items (run, id, value) VALUES ('${run}', ${q.params[1]}, '${prepare}')`;
            q.params = [];
          }
        }
        want.push([id, `${prepare}`], [id + 1, `${prepare}`]);
        id += 2;
        await this.client.batch(queries, { prepare, logged });
      }
    }
    const rows = (await this.prepared('SELECT id, value FROM items WHERE run = ?', [run])).rows;
    assert.deepStrictEqual(rows.map(r => [r.id, r.value]), want, 'rows of batches');
    const update = 'UPDATE counters SET n = n + ? WHERE run = ? AND id = ?';
    for (let i = 0; i < 2; i++) {
      await this.client.batch([{ query: update, params: [5, run, 1] }, { query: update, params: [-2, run, 2] }], { prepare: true, counter: true });
    }
    const counters = (await this.prepared('SELECT id, n FROM counters WHERE run = ?', [run])).rows;
    assert.deepStrictEqual(counters.map(r => [r.id, r.n.toNumber()]), [[1, 10], [2, -4]], 'counters');
  }

  async lwt() {
    const run = this.job.run + ' lwt';
    const insert = 'INSERT INTO items (run, id, value) VALUES (?, 1, ?) IF NOT EXISTS';
    assert((await this.prepared(insert, [run, 'first'])).wasApplied(), 'first insert');
    const second = await this.prepared(insert, [run, 'second']);
    assert.deepStrictEqual([second.wasApplied(), second.first().value], [false, 'first'], 'second insert');
    const update = 'UPDATE items SET value = ? WHERE run = ? AND id = 1 IF value = ?';
    const wrong = await this.prepared(update, ['third', run, 'wrong']);
    assert.deepStrictEqual([wrong.wasApplied(), wrong.first().value], [false, 'first'], 'update with a wrong value');
    assert((await this.prepared(update, ['third', run, 'first'])).wasApplied(), 'update with the right value');
  }

  async schema() {
    const table = this.job.table;
    const insert = `INSERT INTO ${table} (id, b, d) VALUES (?, 'b', 'd')`;
    const select = `SELECT * FROM ${table} WHERE id = ?`;
    // A driver may leave out a column that its PREPARE did not know.
    const read = async (id, want) => {
      const row = (await this.prepared(select, [id])).first();
      for (const name of row.keys()) {
        assert.strictEqual(row[name], { id, ...want }[name] ?? null, `column ${name} of ${row.values()}`);
      }
    };
    await this.client.execute(`CREATE TABLE ${table} (id int PRIMARY KEY, b text, d text)`);
    await this.prepared(insert, [1]);
    await read(1, { b: 'b', d: 'd' });
    await this.client.execute(`ALTER TABLE ${table} ADD c text`);
    await this.prepared(insert, [2]);
    await read(2, { b: 'b', d: 'd' });
    await this.prepared(`INSERT INTO ${table} (id, b, c, d) VALUES (?, 'b', 'c', 'd')`, [3]);
    await read(3, { b: 'b', c: 'c', d: 'd' });
    const again = (await this.client.execute(`SELECT * FROM ${table} WHERE id = 3`)).first();
    assert.deepStrictEqual(again.values(), [3, 'b', 'c', 'd'], 'new statement on a new row');
    await this.client.execute(`ALTER TABLE ${table} DROP c`);
    await this.prepared(insert, [4]);
    await read(4, { b: 'b', d: 'd' });
    await this.client.execute(`DROP TABLE ${table}`);
  }

  async tokens() {
    const used = new Set();
    for (let id = 0; id < 60; id++) {
      const parts = [Buffer.from(this.job.run), Buffer.from([0, 0, 0, id])];
      // The routing key of two columns: length, value and a zero byte of each.
      const key = Buffer.concat(parts.flatMap(p => [Buffer.from([p.length >> 8, p.length & 255]), p, Buffer.from([0])]));
      const want = this.client.getReplicas(this.job.keyspace, key).map(h => h.address);
      const result = await this.prepared('SELECT value FROM keys WHERE run = ? AND id = ?', [this.job.run, id]);
      assert.deepStrictEqual(want, [result.info.queriedHost], `replicas of key ${id} and its coordinator`);
      used.add(result.info.queriedHost.split(':')[0]);
    }
    return { coordinators: [...used].sort() };
  }

  // load goes on until standard input ends.
  async load() {
    const counts = { read: { ok: 0, failed: 0 }, idempotent: { ok: 0, failed: 0 }, other: { ok: 0, failed: 0 } };
    const errors = {};
    let stop = false;
    const request = async (kind, query, params) => {
      try {
        await this.prepared(query, params, { isIdempotent: kind !== 'other' });
        counts[kind].ok++;
      } catch (e) {
        counts[kind].failed++;
        const text = `${kind}: ${e.name}: ${e.message}`;
        errors[text] = (errors[text] ?? 0) + 1;
      }
    };
    const worker = async (w) => {
      for (let n = 1; !stop; n++) {
        await request('read', 'SELECT value FROM keys WHERE run = ? AND id = ?', [this.job.run, w]);
        await request('idempotent', 'INSERT INTO keys (run, id, value) VALUES (?, ?, ?)', [this.job.run, w, `${n}`]);
        await request('other', 'UPDATE items SET tags = tags + ? WHERE run = ? AND id = ?', [[n % 100], `${this.job.run} ${w} ${Math.floor(n / 100)}`, n % 100]);
        if (n === 20 && w === 0) {
          say({ case: 'load', ok: true, detail: 'running' });
        }
        await new Promise(done => setTimeout(done, this.job.pause_ms));
      }
    };
    const workers = [...Array(this.job.workers).keys()].map(worker);
    await this.ended;
    stop = true;
    await Promise.all(workers);
    return { counts, errors, retries: this.policy.retries };
  }
}

async function main() {
  const input = readline.createInterface({ input: process.stdin });
  const ended = new Promise(done => input.once('close', done));
  const job = JSON.parse(await new Promise(done => input.once('line', done)));
  const program = new Program(job, ended);
  try {
    await program.client.connect();
    for (const name of job.cases) {
      try {
        say({ case: name, ok: true, ...(await program[name]()) });
      } catch (e) {
        say({ case: name, ok: false, detail: `${e.name}: ${e.message}` });
      }
    }
  } catch (e) {
    say({ case: 'connect', ok: false, detail: `${e.name}: ${e.message} ${JSON.stringify(e.innerErrors ?? {}, (k, v) => v?.message ?? v)}` });
  }
  await program.client.shutdown();
}

main();
