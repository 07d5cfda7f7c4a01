// What server.js and client.js share: the descriptors, and messages to and from JSON as in src/json.rs.
'use strict';

const fs = require('node:fs');
const protobuf = require('protobufjs');
const descriptor = require('protobufjs/ext/descriptor');

const SHOWN = 100;
const OWN_METADATA = new Set(['te', 'user-agent', 'content-type', 'grpc-accept-encoding', 'accept-encoding', 'grpc-timeout']);
const UNLIMITED = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };
const JSON_FORM = { longs: String, enums: String, bytes: String };

/** Prints one line, whole and at once: standard output is a pipe, which node writes to synchronously. */
function say(line) {
  process.stdout.write((typeof line === 'string' ? line : JSON.stringify(line)) + '\n');
}

// Nobody reads any more: the server goes on serving.
process.stdout.on('error', () => {});

/** The .proto files' methods by path, from the FileDescriptorSet that PROTOCG_DESCRIPTORS names. */
function methods() {
  const set = descriptor.FileDescriptorSet.decode(fs.readFileSync(process.env.PROTOCG_DESCRIPTORS));
  const root = protobuf.Root.fromDescriptor(set);
  root.resolveAll();
  const found = new Map();
  const visit = (namespace) => {
    for (const item of namespace.nestedArray) {
      if (item instanceof protobuf.Service) {
        for (const method of item.methodsArray) {
          found.set(`/${item.fullName.slice(1)}/${method.name}`, {
            name: method.name,
            input: method.resolvedRequestType,
            output: method.resolvedResponseType,
            requestStream: Boolean(method.requestStream),
            responseStream: Boolean(method.responseStream),
          });
        }
      } else if (item.nestedArray) {
        visit(item);
      }
    }
  };
  visit(root);
  return found;
}

/** The bytes of a message given in JSON; without a type: `@hex` only. */
function encode(message, type) {
  if ('@hex' in message) return Buffer.from(message['@hex'], 'hex');
  if (!type) throw new Error("a method that the descriptors don't know takes @hex messages only");
  return bytes(type, fill(message));
}

/** The bytes of an object of a type. */
function bytes(type, message) {
  return Buffer.from(type.encode(type.fromObject(message)).finish());
}

/** The JSON of a message's bytes, long values shortened; the bytes in hex if they don't parse. */
function decode(data, type) {
  try {
    return shorten(type.toObject(type.decode(data), JSON_FORM));
  } catch {
    return { '@hex': shorten(data.toString('hex')) };
  }
}

/** So many bytes: the numbers 0, 1, 2 and so on, of four bytes each, the highest first. */
function pattern(size) {
  const out = Buffer.alloc(Math.ceil(size / 4) * 4);
  for (let at = 0; at < out.length; at += 4) out.writeUInt32BE(at / 4, at);
  return out.subarray(0, size);
}

/** A number that stands for all of these bytes: CRC-32, in hex. */
function digest(data) {
  let sum = ~0;
  for (const byte of data) sum = CRC[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  return (~sum >>> 0).toString(16).padStart(8, '0');
}

const CRC = Int32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

function fill(value) {
  if (Array.isArray(value)) return value.map(fill);
  if (value === null || typeof value !== 'object') return value;
  if ('@text' in value) return 'x'.repeat(value['@text']);
  if ('@bytes' in value) return pattern(value['@bytes']);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, fill(item)]));
}

/** Long strings cut to their beginning and their length. */
function shorten(value) {
  if (typeof value === 'string') {
    const characters = value.length > SHOWN ? [...value] : value;
    return characters.length > SHOWN ? `${characters.slice(0, 16).join('')}...(${characters.length})` : value;
  }
  if (Array.isArray(value)) return value.map(shorten);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, shorten(item)]));
}

/** Metadata as a list of pairs, repeated keys kept; binary values in base64. */
function pairs(metadata) {
  const shown = [];
  for (const [key, values] of Object.entries(metadata ? metadata.toHttp2Headers() : {})) {
    if (OWN_METADATA.has(key) || key.startsWith(':')) continue;
    for (const value of [values].flat()) shown.push([key, key.endsWith('-bin') ? value.replace(/=+$/, '') : value]);
  }
  return shown;
}

module.exports = { UNLIMITED, say, methods, encode, bytes, decode, digest, pairs };
