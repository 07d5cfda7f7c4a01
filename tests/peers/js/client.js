// The grpc-js client: what src/client is with tonic. Reads lists of calls on stdin, prints a line of JSON per call.
'use strict';

const net = require('node:net');
const readline = require('node:readline');
const { parseArgs } = require('node:util');
const { setTimeout: sleep } = require('node:timers/promises');
const grpc = require('@grpc/grpc-js');
const common = require('./common.js');

const RESPONSES_SHOWN = 16;
/** How long a call lasts at least that is cancelled before its first reply. */
const BEGINNING = 50;
const KEYS = new Set(
  'method kind messages metadata deadline_ms group interval_ms gzip lockstep hold cancel_after id'.split(' '),
);

/** One channel, and how often it has connected. */
class Link {
  constructor(target, tls) {
    this.connections = 0;
    // grpc-js says nothing of connections: they are counted where node makes them.
    const connect = net.Socket.prototype.connect;
    const link = this;
    net.Socket.prototype.connect = function (...given) {
      this.once('connect', () => link.connections++);
      return connect.apply(this, given);
    };
    // Certificates are not looked at.
    const encrypted = () => grpc.credentials.createSsl(null, null, null, { rejectUnauthorized: false });
    this.client = new grpc.Client(target, tls ? encrypted() : grpc.credentials.createInsecure(), {
      ...common.UNLIMITED,
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_http_proxy': 0,
      'grpc.initial_reconnect_backoff_ms': 100,
    });
  }
}

/** A call to make, checked and encoded. */
class Call {
  constructor(script, methods) {
    for (const key of Object.keys(script)) if (!KEYS.has(key)) throw new Error(`not a call: unknown ${key}`);
    const method = methods.get(script.method);
    this.script = script;
    this.output = method?.output;
    this.sends = script.kind ? ['client', 'bidi'].includes(script.kind) : Boolean(method?.requestStream);
    this.receives = script.kind ? ['server', 'bidi'].includes(script.kind) : Boolean(method?.responseStream);
    this.messages = (script.messages ?? []).map((message) => common.encode(message, method?.input));
    if (!this.sends && this.messages.length !== 1) throw new Error('a call that does not stream its requests has one message');
  }

  /** Makes it: the line that reports it. */
  make(link, index) {
    const { script } = this;
    const result = {
      type: 'result', index, id: script.id ?? null, method: script.method, code: 0, status: 'OK', message: '', cause: '',
      responses: 0, response_bytes: 0, fields: [], digests: [], latency_ms: 0, headers: [], trailers: [],
    };
    const metadata = new grpc.Metadata();
    for (const [key, value] of script.metadata ?? []) {
      metadata.add(key, key.endsWith('-bin') ? Buffer.from(value, 'base64') : value);
    }
    const options = {};
    if (script.deadline_ms) options.deadline = Date.now() + script.deadline_ms;
    if (script.gzip) metadata.set('grpc-internal-encoding-request', 'gzip');
    const start = performance.now();
    return new Promise((resolve) => {
      const state = { over: false, replied: 0, wake: () => {} };
      const reply = (data) => {
        result.responses++;
        result.response_bytes += data.length;
        if (result.fields.length < RESPONSES_SHOWN) {
          result.fields.push(common.decode(data, this.output));
          result.digests.push(common.digest(data));
        }
        state.replied++;
        state.wake();
        if (script.cancel_after === result.responses) call.cancel();
      };
      const told = (error, data) => data && reply(data);
      const call = this.begin(link.client, metadata, options, told);
      if (this.receives) {
        call.on('data', reply);
        call.on('error', () => {}); // 'status' says it
      }
      call.on('metadata', (headers) => (result.headers = common.pairs(headers)));
      call.on('status', (status) => {
        result.latency_ms = performance.now() - start;
        result.code = status.code;
        result.status = grpc.status[status.code] ?? '?';
        result.message = status.code === 0 ? '' : status.details;
        result.trailers = common.pairs(status.metadata);
        state.over = true;
        state.wake();
        // The reply of a call without a stream comes behind its status.
        setImmediate(() => resolve(result));
      });
      if (script.cancel_after === 0) setTimeout(() => call.cancel(), BEGINNING);
      if (this.sends) this.send(call, state);
    });
  }

  begin(client, metadata, options, told) {
    const same = (data) => data;
    const head = [this.script.method, same, same];
    if (this.sends && this.receives) return client.makeBidiStreamRequest(...head, metadata, options);
    if (this.sends) return client.makeClientStreamRequest(...head, metadata, options, told);
    if (this.receives) return client.makeServerStreamRequest(...head, this.messages[0], metadata, options);
    return client.makeUnaryRequest(...head, this.messages[0], metadata, options, told);
  }

  async send(call, state) {
    for (const [index, message] of this.messages.entries()) {
      if (index && this.script.interval_ms) await sleep(this.script.interval_ms);
      while (index && this.script.lockstep && state.replied < index && !state.over) {
        await new Promise((resolve) => (state.wake = resolve));
      }
      if (state.over) return;
      call.write(message);
    }
    if (!this.script.hold) call.end();
  }
}

/** Runs neighbours of one group together, everything else one after the other. */
async function batch(link, calls) {
  for (let from = 0; from < calls.length; ) {
    const { group } = calls[from].script;
    let to = from + 1;
    while (to < calls.length && group !== undefined && calls[to].script.group === group) to++;
    const running = calls.slice(from, to).map(async (call, i) => common.say(await call.make(link, from + i)));
    await Promise.all(running);
    from = to;
  }
}

/** Makes the denied calls, with the allowed ones spread among them, and sums up. */
async function denials(link, args, calls) {
  const total = args.denials + args.allowed;
  const outcomes = [];
  let next = 0;
  const work = async () => {
    while (next < total) {
      const index = next++;
      const share = (n) => Math.floor((n * args.allowed) / total);
      const allowed = share(index + 1) > share(index);
      outcomes.push([allowed, await calls[allowed ? 1 : 0].make(link, index)]);
    }
  };
  const start = performance.now();
  await Promise.all(Array.from({ length: args.concurrency }, work));
  const elapsed = performance.now() - start;
  const sums = { exact: 0, code_only: 0, unavailable: 0, resets: 0, hung: 0, allowed_ok: 0, allowed_failed: 0 };
  const others = {};
  const latencies = [];
  for (const [allowed, result] of outcomes) {
    const right = result.code === (allowed ? 0 : args.code);
    sums.unavailable += result.code === grpc.status.UNAVAILABLE;
    sums.hung += result.code === grpc.status.DEADLINE_EXCEEDED;
    if (!right) {
      sums.resets += /reset|broken pipe|rst_stream/i.test(result.message);
      const other = `${result.code}: ${result.message}`;
      others[other] = (others[other] ?? 0) + 1;
    }
    if (allowed) {
      sums[right ? 'allowed_ok' : 'allowed_failed']++;
      continue;
    }
    latencies.push(result.latency_ms);
    if (right) sums[result.message === args.message ? 'exact' : 'code_only']++;
  }
  latencies.sort((a, b) => a - b);
  const at = (percent) => latencies[Math.min(Math.floor((latencies.length * percent) / 100), latencies.length - 1)];
  return {
    type: 'denials', denials: latencies.length, ...sums, others,
    connections: link.connections, reconnects: Math.max(link.connections - 1, 0),
    elapsed_ms: elapsed, p50_ms: at(50), p99_ms: at(99), max_ms: at(100),
  };
}

/** The JSON lists on stdin, each as soon as it is complete. */
async function* scripts() {
  let text = '';
  for await (const line of readline.createInterface({ input: process.stdin })) {
    text += line;
    let calls;
    try {
      calls = JSON.parse(text);
    } catch {
      continue;
    }
    text = '';
    yield calls;
  }
  if (text.trim()) throw new Error('stdin ends inside of a list');
}

async function main() {
  const option = (value) => ({ type: 'string', default: value });
  const { values } = parseArgs({
    options: {
      target: option(undefined), denials: option('0'), concurrency: option('16'), allowed: option('0'), code: option('7'),
      message: option(''), tls: { type: 'boolean' },
    },
  });
  const args = { ...values };
  for (const key of ['denials', 'concurrency', 'allowed', 'code']) args[key] = Number(values[key]);
  const methods = common.methods();
  const link = new Link(args.target, args.tls);
  for await (const list of scripts()) {
    const calls = list.map((script) => new Call(script, methods));
    if (args.denials) {
      common.say(await denials(link, args, calls));
      break;
    }
    const before = link.connections;
    await batch(link, calls);
    common.say({ type: 'done', connections: link.connections, new_connections: link.connections - before });
  }
  link.client.close();
  process.stdin.destroy();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
