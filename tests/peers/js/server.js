// The grpc-js server: what src/server is with tonic. Says what its handlers see, a line of JSON per event.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { setTimeout: sleep } = require('node:timers/promises');
const grpc = require('@grpc/grpc-js');
const common = require('./common.js');

const CANCELLED = grpc.status.CANCELLED;
const GRACE = 2000;
let calls = 0;

/** An error that ends a call with a status. */
function failure(code, details) {
  return Object.assign(new Error(details), { code, details });
}

/** One call in its handler. */
class Call {
  constructor(path, method, stream) {
    Object.assign(this, { id: calls++, path, method, stream, messages: 0, received: 0, index: 0, ended: false });
    stream.on('cancelled', () => this.end(failure(CANCELLED, 'the caller went away')));
    this.say({ event: 'start', peer: stream.getPeer(), metadata: common.pairs(stream.metadata) });
  }

  say(event) {
    common.say({ call: this.id, method: this.path, ...event });
  }

  /** A message that the handler has got. */
  take(data) {
    let message;
    try {
      message = this.method.input.decode(data);
    } catch (error) {
      throw failure(grpc.status.INTERNAL, error.message);
    }
    const whole = Buffer.from(this.method.input.encode(message).finish());
    const fields = common.decode(data, this.method.input);
    this.say({ event: 'message', index: this.messages++, size: whole.length, digest: common.digest(whole), fields });
    this.received += message.payload?.length ?? 0;
    return message;
  }

  /** The handler is done. */
  end(error) {
    if (this.ended) return;
    this.ended = true;
    const [code, text] = error ? [error.code ?? grpc.status.UNKNOWN, error.details ?? error.message] : [0, null];
    this.say({ event: 'end', messages: this.messages, code, error: text });
  }

  /** The bytes of an answer; zeros and empty values are left out, as everywhere in proto3. */
  answer(fields) {
    const set = Object.entries(fields).filter(([, value]) => value && value.length !== 0);
    return common.bytes(this.method.output, Object.fromEntries(set));
  }

  async reply(to) {
    const delay = to.delay_ms || (this.method.name === 'Slow' ? 1000 : 0);
    if (delay) await sleep(delay);
    if (to.fail_code) throw failure(to.fail_code, to.fail_message);
    return this.answer({
      text: to.text,
      payload: Buffer.alloc(to.reply_bytes),
      index: this.index++,
      received: this.messages,
      received_bytes: this.received,
      request: to.reflect && to,
    });
  }
}

/** The answers to one message, in turn. Each method is a function from call and message to such a generator. */
const METHODS = {
  async *'/search.SearchService/Search'(call, message) {
    yield call.answer({ results: [`first page about ${message.query}`], total: 1 });
  },
  async *'/login.LoginService/Login'(call, message) {
    yield call.answer({ ok: true, token: `token of ${message.user}` });
  },
  async *'/grpc.testing.TestService/EmptyCall'(call) {
    yield call.answer({});
  },
  async *'/grpc.testing.TestService/UnaryCall'(call, message) {
    refuse(message);
    yield call.answer({ payload: { body: Buffer.alloc(message.response_size) } });
  },
  async *'/grpc.testing.TestService/StreamingInputCall'(call) {
    yield call.answer({ aggregated_payload_size: call.sum });
  },
  '/grpc.testing.TestService/StreamingOutputCall': output,
  '/grpc.testing.TestService/FullDuplexCall': output,
};

/** The interoperability service ends a call as its request says. */
function refuse({ response_status: status }) {
  if (status) throw failure(status.code, status.message);
}

async function* output(call, message) {
  refuse(message);
  for (const { size, interval_us: pause } of message.response_parameters) {
    if (pause) await sleep(pause / 1000);
    yield call.answer({ payload: { body: Buffer.alloc(size) } });
  }
}

async function* echo(call, message) {
  for (let times = call.method.responseStream ? message.replies || 1 : 1; times > 0; times--) yield await call.reply(message);
}

/** What the interoperability service gives back of a call's metadata. */
function metadata(stream, key) {
  const out = new grpc.Metadata();
  for (const value of stream.metadata.get(key)) out.add(key, value);
  return out;
}

/** A stream's messages. Its own iterator would destroy it when the loop ends, with the side that the answers take. */
async function* incoming(stream) {
  const queue = [];
  let over = false;
  let wake = () => {};
  stream.on('data', (data) => wake(queue.push(data)));
  for (const event of ['end', 'cancelled', 'error']) stream.on(event, () => wake((over = true)));
  for (;;) {
    while (queue.length) yield queue.shift();
    if (over) return;
    await new Promise((resolve) => (wake = resolve));
  }
}

function handler(path, method) {
  const answers = METHODS[path] ?? echo;
  return async (stream, callback) => {
    const call = new Call(path, method, stream);
    stream.sendMetadata(metadata(stream, 'x-grpc-test-echo-initial'));
    const trailers = metadata(stream, 'x-grpc-test-echo-trailing-bin');
    const send = async (message) => {
      for await (const answer of answers(call, message)) {
        if (call.ended) return;
        if (callback) callback(null, answer, trailers);
        else stream.write(answer);
      }
    };
    try {
      if (method.requestStream) {
        let last = method.input.create();
        call.sum = 0;
        for await (const data of incoming(stream)) {
          last = call.take(data);
          call.sum += last.payload?.body?.length ?? 0;
          if (method.responseStream) await send(last);
        }
        if (!method.responseStream && !call.ended) await send(last);
      } else {
        await send(call.take(stream.request));
      }
      call.end();
      if (!callback) stream.end(trailers);
    } catch (error) {
      call.end(error);
      const told = error.code === undefined ? failure(grpc.status.UNKNOWN, error.message) : error;
      if (callback) callback({ ...told, code: told.code, details: told.details, metadata: trailers });
      else stream.emit('error', Object.assign(told, { metadata: trailers }));
    }
  };
}

/** TLS with key.pem and cert.pem of a folder, or none. */
function credentials(folder) {
  if (!folder) return grpc.ServerCredentials.createInsecure();
  const read = (name) => fs.readFileSync(path.join(folder, name));
  return grpc.ServerCredentials.createSsl(null, [{ private_key: read('key.pem'), cert_chain: read('cert.pem') }]);
}

async function main() {
  const { values } = parseArgs({
    options: { listen: { type: 'string', multiple: true }, 'max-streams': { type: 'string' }, tls: { type: 'string' } },
  });
  const options = { ...common.UNLIMITED };
  if (values['max-streams']) options['grpc.max_concurrent_streams'] = Number(values['max-streams']);
  const server = new grpc.Server(options);
  const services = {};
  for (const [path, method] of common.methods()) {
    if (method.name === 'UnimplementedCall') continue;
    const [definition, handlers] = (services[path.split('/')[1]] ??= [{}, {}]);
    const same = (data) => data;
    definition[method.name] = {
      path,
      requestStream: method.requestStream,
      responseStream: method.responseStream,
      requestSerialize: same,
      requestDeserialize: same,
      responseSerialize: same,
      responseDeserialize: same,
    };
    handlers[method.name] = handler(path, method);
  }
  for (const [definition, handlers] of Object.values(services)) server.addService(definition, handlers);
  for (const address of values.listen) {
    const port = await new Promise((resolve, reject) => {
      const told = (error, port) => (error ? reject(error) : resolve(port));
      server.bindAsync(address, credentials(values.tls), told);
    });
    common.say(`listening ${address.replace(/:\d+$/, '')}:${port}`);
  }
  for (const signal of ['SIGTERM', 'SIGINT']) {
    process.on(signal, () => {
      setTimeout(() => process.exit(0), GRACE).unref();
      server.tryShutdown(() => process.exit(0));
    });
  }
}

main();
